import random
from collections import Counter, OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.checkpoint import load_bundle, save_bundle
from premortem.stages.train.checkpoint.tensors import DTYPES, count_nonfinite, host_bytes
from premortem.stages.train.checkpoint.tree import pack, unpack

OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
)


def same(left: object, right: object) -> bool:
    """Equal to the bit: type, structure, order, dtype, shape, bytes; NaN equals itself, -0.0 is not 0.0."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        form = left.dtype == right.dtype and left.shape == right.shape
        return form and host_bytes(left).tobytes() == host_bytes(right).tobytes()
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    if isinstance(left, dict):
        return len(left) == len(right) and all(map(same, left.items(), right.items()))
    if isinstance(left, list | tuple | deque):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float | complex | np.generic):
        return np.array(left).tobytes() == np.array(right).tobytes()
    return left == right


def round_trip(tmp_path: Path, tree: object) -> object:
    bundle = save_bundle(tmp_path, 0, {"part": tree}, nonfinite_ok=("part",))
    return load_bundle(bundle.path)["part"]


@st.composite
def tensors(draw):
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    count = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=count, max_size=count))
    if dtype == torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    tensor = flat.view(dtype).reshape(shape)
    form = draw(st.sampled_from(["as is", "transposed", "strided"]))
    if form == "transposed" and tensor.dim() == 2:
        return tensor.t()
    return tensor[::2] if form == "strided" and tensor.dim() else tensor


keys = st.one_of(
    st.text(max_size=6), st.integers(), st.none(), st.booleans(), st.tuples(st.integers(), st.text(max_size=2))
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from(
        [torch.bfloat16, torch.device("cpu"), torch.Size([2, 3]), np.float32(1.5), np.int64(-3), np.bool_(True)]
    ),
    tensors(),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=3).map(lambda items: deque(items, maxlen=5)),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(st.text(max_size=4) | st.just("!"), inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(trees)
def test_any_nested_state_comes_back_to_the_bit(tmp_path_factory, tree):
    assert same(round_trip(tmp_path_factory.mktemp("b"), tree), tree)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_state_comes_back_to_the_bit(tmp_path, name):
    torch.manual_seed(1)
    model = (
        torch.nn.Embedding(5, 4, sparse=True) if name == "SparseAdam" else torch.nn.Linear(5, 4, bias=name != "Muon")
    )
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    source = torch.arange(5) if name == "SparseAdam" else torch.randn(3, 5)

    def closure():
        optimizer.zero_grad()
        loss = model(source).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    state = optimizer.state_dict()
    loaded = round_trip(tmp_path, state)
    assert same(loaded, state)
    optimizer.load_state_dict(loaded)
    assert same(optimizer.state_dict(), state)


def test_module_scheduler_scaler_and_random_states_come_back_and_load(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    parts = {
        "model": model.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "rng": {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": np.random.get_state()},
        "pcg": np.random.default_rng(1).bit_generator.state,
        "counts": Counter(a=2, b=1),
        "sets": ({1, 2}, frozenset({"x"})),
    }
    loaded = load_bundle(save_bundle(tmp_path, 3, parts).path, fits={"model": model.state_dict()})
    assert same(loaded, parts)
    assert loaded["model"]._metadata == model.state_dict()._metadata
    model.load_state_dict(loaded["model"])
    scheduler.load_state_dict(loaded["scheduler"])
    random.setstate(loaded["rng"]["python"])
    np.random.set_state(loaded["rng"]["numpy"])


def test_tied_tensors_stay_tied_and_are_stored_once(tmp_path):
    weight = torch.randn(50, 40)
    loaded = round_trip(
        tmp_path, {"wte": weight, "head": weight, "flipped": weight.t(), "parameter": torch.nn.Parameter(weight)}
    )
    assert loaded["wte"] is loaded["head"] is loaded["parameter"]
    assert loaded["flipped"].data_ptr() != loaded["wte"].data_ptr()
    assert same(loaded["flipped"], weight.t())
    assert len(load_file(tmp_path / "step-00000000" / "part.safetensors")) == 2


def test_names_that_collide_or_are_reserved_keep_their_own_tensors(tmp_path):
    tree = {
        "a.b": torch.tensor(1),
        "a": {"b": torch.tensor(2)},
        "__metadata__": torch.tensor(3),
        "\ud800": torch.tensor(4),
    }
    assert same(round_trip(tmp_path, tree), tree)


def test_other_tools_read_the_files_as_plain_safetensors(tmp_path):
    state = {
        "w": torch.randn(3, 2, dtype=torch.bfloat16),
        "flag": torch.tensor([True, False, True]),
        "n": torch.tensor(7),
    }
    save_bundle(tmp_path, 1, {"model": state})
    assert same(
        dict(sorted(load_file(tmp_path / "step-00000001" / "model.safetensors").items())), dict(sorted(state.items()))
    )


class Opaque:
    pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Opaque(), "Opaque"),
        (torch.eye(2).to_sparse(), "layout"),
        (torch.empty(2, device="meta"), "meta"),
        (np.array(["text"]), "dtype"),
        (np.array([1.0], dtype=">f8"), "native byte order"),
        (np.datetime64("2020-01-01"), "datetime64"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_place_and_type_before_anything_is_written(tmp_path, value, said):
    with pytest.raises(ConfigError, match=said) as caught:
        save_bundle(tmp_path, 0, {"model": {"layer": [value]}})
    assert str(caught.value).startswith("model.layer.0: ")
    assert list(tmp_path.iterdir()) == []


def test_a_tree_that_contains_itself_is_refused(tmp_path):
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="nested deeper"):
        save_bundle(tmp_path, 0, {"model": loop})


@pytest.mark.parametrize(
    "plain",
    [
        {"!": "reduce"},
        {"!": "tensor", "name": "gone"},
        {"!": "int"},
        {"!": "scalar", "dtype": "O", "hex": ""},
        {"!": ["x"]},
    ],
)
def test_an_encoding_that_is_not_ours_is_a_stage_error(plain):
    with pytest.raises(StageError, match="cannot be decoded"):
        unpack(plain, {}, "file")


def test_conjugate_and_negative_views_keep_their_values():
    value = torch.randn(3, dtype=torch.complex64)
    packed = pack({"a": value, "b": value.conj()}, "t")
    assert len(packed.tensors) == 2
    assert same(torch.from_numpy(host_bytes(value.conj())).view(torch.complex64), value.conj().resolve_conj())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64])
def test_non_finite_values_are_counted_and_an_overflowing_sum_is_not_one(dtype):
    bad = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]).to(dtype)
    assert count_nonfinite(bad) == 3
    big = torch.full((64,), 57344.0 if dtype == torch.float8_e5m2 else 6e4).to(dtype)
    assert count_nonfinite(big) == 0
    assert count_nonfinite(torch.full((9,), 3e38)) == 0
    assert count_nonfinite(torch.empty(0)) == count_nonfinite(torch.tensor([1])) == 0
