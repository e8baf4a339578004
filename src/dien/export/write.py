"""Writing an export: the folder appears when it is whole and was compared with the network that it was made of."""

from pathlib import Path
from typing import Any

from dien.errors import DienError
from dien.export.archive import FORMATS, atomic_folder, write_ids, write_manifest
from dien.export.card import write_card
from dien.export.check import check_export, program_in
from dien.export.padded import LOGITS, why_not
from dien.export.weights import write_weights
from dien.trained import Trained


def write_export(trained: Trained, kind: str, folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write a network in a format.

    Args:
        trained: the network, with all that goes along.
        kind: `pt2 | onnx | weights`.
        folder: the new folder.
        card: what is known of the network, see `dien.export.card`.

    Returns:
        How far the export is from the network, see `check_export`.

    Raises:
        DienError: the network cannot be exported, the export differs from it, or the folder exists.
    """
    network, tables = trained.network, trained.tables
    if type(network) not in LOGITS:
        raise DienError(why_not(network))
    with atomic_folder(folder) as place:
        if kind == "weights":
            write_weights(network, trained.model, tables, place)
        else:
            from dien.export.programs import program_of, write_onnx, write_pt2  # the exporter takes seconds to import

            (write_pt2 if kind == "pt2" else write_onnx)(program_of(network), place / FORMATS[kind])
        write_ids(place, trained.items, trained.users)
        write_manifest(place, kind=kind, history_length=trained.history_length)  # the check reads it as users do
        items, users = (len(table[0].values) for table in tables)
        check = check_export(
            network, program_in(place, kind), items=items, users=users, history_length=trained.history_length
        )
        write_card(place, {**card, "format": kind, "check": check})
        write_manifest(place, kind=kind, history_length=trained.history_length)
    return check
