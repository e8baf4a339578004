"""From a configuration to the LightningModule that it describes."""

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dien.data.datamodule import DataModule
from dien.errors import ConfigError, check_choice
from dien.model.features import check_ignored, sparse_tables, use_sparse_gradients
from dien.module import ClickModule
from dien.optimizer import Adam
from dien.sharding import check_available, tables_to_share
from dien.tables import Table
from dien.targets import instantiate

NOT_OF_THE_NETWORK = ("name", "label", "alpha", "auxiliary", "embedding")
"""Keys of `model` that say how it is called and trained; all others are arguments of its constructor."""

EMBEDDINGS = ("whole", "sharded")


def build_network(model: DictConfig, item_table: Table, user_table: Table) -> nn.Module:
    """The network that the node `model` of a configuration describes, for these feature tables."""
    keys = [str(key) for key in model if key not in NOT_OF_THE_NETWORK]
    node = OmegaConf.create({"model": OmegaConf.masked_copy(model, keys)}).model  # errors then name its place
    return instantiate(node, item_table=item_table, user_table=user_table, _convert_="all")


def build_module(cfg: DictConfig, data: DataModule) -> ClickModule:
    """The LightningModule that `cfg.model`, `cfg.optimizer` and `cfg.schedule` describe, for prepared data."""
    item_table, user_table = data.tables()
    if "features" in cfg.model:
        check_ignored(cfg.model.features.ignore, item_table, user_table)
    network = build_network(cfg.model, item_table, user_table)
    optimizer, schedule = instantiate(cfg.optimizer), instantiate(cfg.schedule)
    sharded = _is_sharded(cfg)
    # Clipping needs the norm of dense gradients, and weight decay concerns rows that no batch touches.
    lazy = optimizer.func is Adam and not optimizer.keywords.get("weight_decay")
    plain = cfg.trainer.strategy in ("auto", "ddp") and not str(cfg.trainer.precision).startswith("16")
    if lazy and plain and cfg.trainer.gradient_clip_val is None and not sharded:
        use_sparse_gradients(network)
    module = ClickModule(network, optimizer=optimizer, schedule=schedule, alpha=cfg.model.alpha, sharded=sharded)
    # The module itself exchanges sparse gradients, row by row; TorchRec those of tables that are shared out.
    apart = list(tables_to_share(module)) if sharded else sparse_tables(module)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, apart)
    return module


def _is_sharded(cfg: DictConfig) -> bool:
    """Whether `model.embedding` (the networks of the authors have none) asks for tables shared out over processes."""
    embedding = cfg.model.get("embedding", EMBEDDINGS[0])
    check_choice("model.embedding", embedding, EMBEDDINGS)
    if embedding != "sharded":
        return False
    if cfg.trainer.gradient_clip_val is not None or str(cfg.trainer.precision).startswith("16"):
        raise ConfigError(
            "model.embedding=sharded needs trainer.gradient_clip_val=null and trainer.precision=32-true or bf16-mixed: "
            "no process sees all gradients."
        )
    check_available()
    return True
