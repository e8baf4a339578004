"""The reader of foreign pickles: tensors and plain values come out, and nothing of the file is run."""

import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from dien.convert.pickles import Inert, _tensor, read_foreign, strings, text
from dien.errors import DataError


class Attack:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Plain:
    def __init__(self):
        self.value = {"a": 3}


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_and_plain_values(tmp_path, protocol):
    base = torch.randn(6, 4)
    content = {
        "state": OrderedDict(a=base, view=base.t()[1:3], parameter=torch.nn.Parameter(torch.ones(2))),
        "ids": torch.arange(5),
        "bools": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "plain": [1, 2.5, "text", None, (True, {3})],
        "object": Plain(),
    }
    torch.save(content, tmp_path / "x.pt", pickle_protocol=protocol)
    found = read_foreign(tmp_path / "x.pt")
    for name, tensor in content["state"].items():
        torch.testing.assert_close(found["state"][name], tensor.detach(), rtol=0, atol=0)
    for name in ("ids", "bools", "empty"):
        assert torch.equal(found[name], content[name])
        assert found[name].dtype == content[name].dtype
    assert found["plain"] == content["plain"]
    assert isinstance(found["object"], Inert)
    assert found["object"].attribute("value") == {"a": 3}
    assert found["object"].attribute("other") is None


@pytest.mark.parametrize("function", [os.system, eval, exec, subprocess.check_output])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_called(tmp_path, function, protocol):
    trace = tmp_path / "trace"
    line = f"open({str(trace)!r}, 'w')" if function in (eval, exec) else f"touch {trace}"
    torch.save({"x": Attack(function, line)}, tmp_path / "x.pt", pickle_protocol=protocol)
    found = read_foreign(tmp_path / "x.pt")["x"]
    assert not trace.exists()
    assert isinstance(found, Inert)
    assert found.arguments == (line,)


@pytest.mark.parametrize("array", [np.array(["[PAD]", "é", "a b"]), np.array(["[PAD]", "é", "a b"], object)])
def test_strings_of_numpy(tmp_path, array):
    torch.save({"x": array, "one": np.str_("name")}, tmp_path / "x.pt", pickle_protocol=4)
    found = read_foreign(tmp_path / "x.pt")
    assert strings(found["x"]) == ["[PAD]", "é", "a b"]
    assert text(found["one"]) == "name"


def test_other_files_are_one_sentence(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(100)}, path)
    whole = path.read_bytes()
    for content in (b"", b"no", pickle.dumps([1]), whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is not a checkpoint of torch\.save, or it is damaged"):
            read_foreign(path)
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        read_foreign(tmp_path / "nowhere.pt")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # a bomb: 200 KB for 200 MB
        archive.writestr("x/data.pkl", pickle.dumps(1))
        archive.writestr("x/data/0", b"\0" * 10_000_000)
    with pytest.raises(DataError, match="is compressed or too large for a checkpoint"):
        read_foreign(path)


def test_tensors_cannot_reach_beyond_their_bytes(tmp_path):
    for size, count in (((3,), 3), ((1 << 40,), 2)):
        storage = Attack(torch._utils._rebuild_tensor_v2, _Storage(count), 0, size, (1,), False, OrderedDict())
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive, archive.open("x/data.pkl", "w") as file:
            pickler = pickle.Pickler(file, protocol=2)
            pickler.persistent_id = lambda obj: obj.pid if isinstance(obj, _Storage) else None
            pickler.dump({"x": storage})
        with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
            archive.writestr("x/data/0", b"\0" * 8)  # two floats
        with pytest.raises(DataError):
            read_foreign(tmp_path / "x.pt")


class _Storage:
    def __init__(self, count):
        self.pid = ("storage", torch.FloatStorage, "0", "cpu", count)


@pytest.mark.parametrize(
    ("size", "stride", "offset"), [((5,), (1,), 0), ((2,), (1,), 3), ((1 << 40,), (0,), 0), ((2,), (-1,), 3)]
)
def test_a_tensor_larger_than_its_storage_is_refused(size, stride, offset):
    storage = torch.arange(4)
    assert _tensor(storage, 1, (2,), (2,)).tolist() == [1, 3]
    assert _tensor(storage, 0, (), ()).item() == 0
    assert _tensor(storage, 0, (0, 9), (9, 1)).shape == (0, 9)
    with pytest.raises(DataError, match="larger than what it has stored"):
        _tensor(storage, offset, size, stride)
