"""Policy files: what comes back is what went in, and no damaged file does anything but raise PolicyFileError."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policygrad import policies
from policygrad.errors import OutputError, PolicyFileError, SpaceError, UsageError
from policygrad.policies import Frozen, Gaussian, Policy, files
from policygrad.policies.features import FEATURES, Raw, build, cnn, index, joined, learnt
from policygrad.policies.heads import LinearCategorical, TableHead
from policygrad.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, mapped, zeros
from policygrad.types import Spec

KEY = jax.random.key(0)
VECTOR = Box.of([-1, -np.inf, 0], [1, np.inf, 2])
FEATURES_PATH = ("fields", "features", "fields")
ZEROS = b"0" * 64


def phi(s, a):
    return s * a


def small_policy():
    return policies.default(hidden_sizes=(3,), sigma=(0.5, 2.0))(KEY, Spec(VECTOR, Box.of(-1, 1, (2,)), 1))


def preferences():
    return policies.state_action(phi)(KEY, Spec(VECTOR, Discrete(2), 1))


class Doubled(eqx.Module):
    """A user's own Module, without features, that does not say what it is for."""

    scale: jax.Array

    def __call__(self, obs):
        mean = self.scale * obs
        return Gaussian(mean, jnp.zeros_like(mean), 1)


class OwnFeatures(eqx.Module):
    """A user's own features in an ordinary policy."""

    weight: jax.Array

    def __call__(self, obs):
        return jnp.tanh(obs @ self.weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def blob(folder):
    """The bytes of a saved policy."""
    policies.save(small_policy(), folder / "small.safetensors")
    return (folder / "small.safetensors").read_bytes()


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def parts(blob):
    """(header, manifest, tensor bytes) of a file."""
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["policygrad"]), blob[8 + size :]


def signed(header, manifest, tensors):
    """A file whose hash is right, whatever it says."""
    manifest = {"sha256": ZEROS.decode(), **{k: v for k, v in manifest.items() if k != "sha256"}}
    text = json.dumps({**header, "__metadata__": {"policygrad": json.dumps(manifest)}}).encode()
    text += b" " * (-len(text) % 8)
    blob = struct.pack("<Q", len(text)) + text + tensors
    return blob.replace(ZEROS, hashlib.sha256(blob).hexdigest().encode(), 1)


def refused(folder, blob, message="policy file", like=None):
    """Loading these bytes raises PolicyFileError, in one line that names the file."""
    path = folder / "refused.safetensors"
    path.write_bytes(blob)
    with pytest.raises(PolicyFileError, match=message) as caught:
        policies.load(path, like=like)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# What comes back


def test_a_loaded_policy_acts_as_the_saved_one(blob, folder):
    policy, loaded = small_policy(), policies.load(folder / "small.safetensors")
    same(loaded, policy)
    assert loaded.observation_space == VECTOR  # infinite bounds and all
    obs = jnp.ones((4, 3))
    act = jax.jit(lambda p: p(obs).log_prob(p(obs).sample(KEY)))
    np.testing.assert_array_equal(act(loaded), act(policy))


def test_float64_round_trip(folder):
    with jax.enable_x64(True):
        policy = policies.tabular_softmax(np.random.default_rng(0).normal(size=(3, 2)))
        policies.save(policy, folder / "double.safetensors")
        same(policies.load(folder / "double.safetensors"), policy)
    assert policies.load(folder / "double.safetensors").head.logits.dtype == jnp.float32
    with jax.enable_x64(True):
        policies.save(policies.tabular_softmax(np.full((1, 2), 1e300)), folder / "double.safetensors")
    with pytest.raises(PolicyFileError, match="does not fit into float32"):
        policies.load(folder / "double.safetensors")


def test_the_file_is_the_same_bytes_each_time_and_plain_safetensors(blob, folder):
    policies.save(small_policy(), folder / "again.safetensors")
    assert (folder / "again.safetensors").read_bytes() == blob
    header, manifest, _ = parts(blob)
    assert set(header) - {"__metadata__"} == {
        "features.layers.0.weight",
        "features.layers.0.bias",
        "head.layer.weight",
        "head.layer.bias",
    }
    assert (manifest["format"], manifest["structure"]["class"]) == (1, "Policy")
    json.loads(json.dumps(manifest, allow_nan=False))


def test_critics_and_nested_modules_round_trip(folder):
    critic = policies.default_critic((3,))(KEY, Spec(VECTOR, Discrete(2), 1))
    policies.save(critic, folder / "critic.safetensors")
    same(policies.load(folder / "critic.safetensors"), critic)


IMAGE = Box.of(0, 255, (4, 4, 1), "uint8")
GRID = MultiDiscrete((2, 3, 1, 4), (2, 2), (1, 0, 0, 2))
UNIT = Box.of([-1.0, 0.0], 1.0)
PARTS = Dict.of({"pair": Tuple((UNIT, Discrete(3, start=1))), "flags": MultiBinary((2, 1)), "eye": IMAGE, "grid": GRID})


def tiny_cnn(key, space):
    return cnn(key, space, ((2, 3, 1),), num_features=3)


EVERY = {  # kind: (observation space, arguments)
    "auto": (UNIT, {}),
    "raw": (Tuple((Discrete(2), MultiBinary((2,)))), {}),
    "one-hot": (GRID, {}),
    "polynomial": (UNIT, {"degree": 3}),
    "fourier": (UNIT, {"order": 2, "total_order": 3}),
    "rbf": (UNIT, {"count": 3, "seed": 5, "normalised": True}),
    "random-fourier": (UNIT, {"count": 3, "width": (0.5, 2.0)}),
    "nature-cnn": None,  # the same class as the next
    "small-cnn": (Box.of(0, 255, (5, 5, 1), "uint8"), {"num_features": 2}),
    "joined": (PARTS, {"parts": {"eye": tiny_cnn}}),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_policies_of_every_kind_of_features_round_trip(folder, kind):
    if EVERY[kind] is None:
        return
    space, arguments = EVERY[kind]
    inputs = build(kind, KEY, space, **arguments)
    features, output = learnt(
        KEY, space, (), 2, activation="relu", initialisation="torch", output_gain=1.0, inputs=Frozen(inputs) if kind == "joined" else inputs
    )
    policy = Policy(features, LinearCategorical(output), space, Discrete(2))
    policies.save(policy, folder / "kind.safetensors")
    loaded = policies.load(folder / "kind.safetensors")
    same(loaded, policy)
    assert loaded.observation_space == space
    obs = mapped(lambda leaf, zero: zero + 1, space, zeros(space, 3))
    act = jax.jit(lambda policy, obs: policy(obs).logits)
    np.testing.assert_array_equal(act(loaded, obs), act(policy, obs))


def test_tables_of_joint_states_round_trip(folder):
    policy = Policy(index(GRID), TableHead(jnp.zeros((24, 3))), GRID, Discrete(3))
    policies.save(policy, folder / "joint.safetensors")
    same(policies.load(folder / "joint.safetensors"), policy)
    header, manifest, tensors = parts((folder / "joint.safetensors").read_bytes())
    space = manifest["structure"]["fields"]["observation_space"]
    for lie in (
        {**space, "counts": {"tuple": [2, 3, 1]}, "starts": {"tuple": []}},
        {**space, "counts": {"tuple": [2, 3, 1, 0]}},
        {**space, "counts": {"tuple": [2, 3, 1, True]}},
        {**space, "counts": 4},
        {**space, "starts": {"tuple": [1]}},
        {**space, "more": 1},
        {"space": "MultiBinary", "shape": {"tuple": [-1]}},
        {"space": "MultiBinary", "shape": {"tuple": [4]}},
        {"space": "Dict", "parts": {"tuple": []}},
        {"space": "Dict", "parts": {"tuple": [{"tuple": ["b", space]}, {"tuple": ["a", space]}]}},
        {"space": "Dict", "parts": {"tuple": [{"tuple": ["a", space]}, {"tuple": ["a", space]}]}},
        {"space": "Dict", "parts": {"tuple": [{"tuple": [1, space]}]}},
        {"space": "Dict", "parts": {"tuple": [space]}},
        {"space": "Tuple", "parts": {"tuple": [1]}},
        {"space": "Tuple", "parts": [space]},
        {"space": "Tuple", "parts": {"tuple": [space]}},
    ):
        refused(folder, signed(header, edited(manifest, ("fields", "observation_space"), lie), tensors), "not a working policy")


def test_parts_out_of_order_are_refused(folder):
    """A dict's leaves would stand in another order than the space says."""
    policy = Policy(joined(KEY, PARTS, others="raw"), policies.linear()(KEY, Spec(VECTOR, Discrete(2), 1)).head, PARTS, Discrete(2))
    policies.save(policy, folder / "parts.safetensors")
    header, manifest, tensors = parts((folder / "parts.safetensors").read_bytes())
    entries = manifest["structure"]["fields"]["observation_space"]["parts"]["tuple"]
    for lie in (entries[::-1], [entries[0], *entries]):
        changed = edited(manifest, ("fields", "observation_space", "parts", "tuple"), lie)
        refused(folder, signed(header, changed, tensors), "for a static field")


def test_features_that_would_fill_the_memory_are_refused(folder):
    for kind, field, lie in (("fourier", "order", 10**9), ("rbf", "count", 10**9), ("random-fourier", "count", 10**9)):
        space, arguments = EVERY[kind]
        policy = Policy(build(kind, KEY, space, **arguments), policies.linear()(KEY, Spec(UNIT, Discrete(2), 1)).head, space, Discrete(2))
        policies.save(policy, folder / "basis.safetensors")
        header, manifest, tensors = parts((folder / "basis.safetensors").read_bytes())
        changed = edited(manifest, (*FEATURES_PATH, field), lie)
        if kind == "fourier":
            changed = edited(changed, (*FEATURES_PATH, "total_order"), None)
        refused(folder, signed(header, changed, tensors), "too many")


def test_a_policy_is_for_spaces_of_its_own_kind():
    policy = Policy(joined(KEY, PARTS, others="raw"), None, PARTS, Discrete(2))
    policies.require_spaces(policy, PARTS, Discrete(2), "Parts-v0")
    for other in (PARTS.without("flags"), UNIT, GRID):
        with pytest.raises(SpaceError, match="the policy is for other observations than Parts-v0"):
            policies.require_spaces(policy, other, Discrete(2), "Parts-v0")


def test_saving_replaces_whole_files_and_leaves_nothing_behind(folder):
    path = folder / "replaced.safetensors"
    for value in (0.0, 1.0):
        policies.save(policies.tabular_softmax([[value, 2.0]]), path)
        assert policies.load(path).head.logits[0, 0] == value
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_failed_save_keeps_the_old_file(folder, monkeypatch):
    path = folder / "kept.safetensors"
    policies.save(policies.tabular_softmax([[0.0, 2.0]]), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        policies.save(policies.tabular_softmax([[1.0, 2.0]]), path)
    assert path.read_bytes() == before
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_where_no_file_can_be_written(folder):
    for path in (folder / "missing" / "p.safetensors", folder, folder / "null\0byte", "", "/"):
        with pytest.raises(OutputError, match="cannot be written"):
            policies.save(small_policy(), path)


def test_what_cannot_be_saved(folder):
    path = folder / "never.safetensors"
    with pytest.raises(UsageError, match=r"policy leaf 'scale': got a float; .*static field"):
        policies.save(Doubled(2.0), path)
    with pytest.raises(UsageError, match="got an array of int32"):
        policies.save(Doubled(jnp.arange(3)), path)
    with pytest.raises(UsageError, match="got an array of key"):
        policies.save(Doubled(KEY), path)
    with pytest.raises(UsageError, match="got NaN or infinity"):
        policies.save(Doubled(jnp.array([1.0, jnp.nan])), path)
    assert not path.exists()


# Own functions and Modules


@pytest.mark.parametrize(
    "policy",
    [
        preferences(),
        Doubled(jnp.array([2.0])),
        Policy(OwnFeatures(jnp.ones((3, 2))), policies.linear()(KEY, Spec(Box.of(-1, 1, (2,)), Discrete(2), 1)).head, VECTOR, Discrete(2)),
    ],
)
def test_a_policy_with_own_parts_loads_into_one_like_it(policy, folder):
    path = folder / "own.safetensors"
    policies.save(policy, path)
    assert parts(path.read_bytes())[1]["structure"] is None
    with pytest.raises(PolicyFileError, match=r"is not saved; pass load\(path, like=policy\)"):
        policies.load(path)
    like = jax.tree.map(jnp.zeros_like, policy)
    same(policies.load(path, like=like), policy)


def test_like_must_be_alike(folder, blob):
    spec = Spec(VECTOR, Box.of(-1, 1, (2,)), 1)
    same(policies.load(folder / "small.safetensors", like=small_policy()), small_policy())
    wider = policies.default(hidden_sizes=(4,), sigma=(0.5, 2.0))(KEY, spec)
    refused(folder, blob, r"got float32\(.*`like` has float32", like=wider)
    refused(folder, blob, "got other arrays than `like` has", like=policies.default(hidden_sizes=(3,))(KEY, spec))
    other_sigma = policies.default(hidden_sizes=(3,), sigma=0.5)(KEY, spec)
    refused(folder, blob, "another structure or other spaces", like=other_sigma)
    policies.save(preferences(), folder / "phi.safetensors")
    elsewhere = policies.state_action(phi)(KEY, Spec(VECTOR, Discrete(3), 1))
    with pytest.raises(PolicyFileError, match="another structure or other spaces"):
        policies.load(folder / "phi.safetensors", like=elsewhere)


def test_storable_classes_need_no_like(folder, monkeypatch):
    monkeypatch.setattr(files, "CLASSES", dict(files.CLASSES))
    policies.save(Doubled(jnp.array([2.0])), folder / "before.safetensors")
    assert policies.storable(Doubled) is Doubled
    assert policies.storable(Doubled) is Doubled
    policies.save(Doubled(jnp.array([2.0])), folder / "after.safetensors")
    same(policies.load(folder / "after.safetensors"), Doubled(jnp.array([2.0])))
    same(policies.load(folder / "before.safetensors", like=Doubled(jnp.zeros(1))), Doubled(jnp.array([2.0])))
    with pytest.raises(UsageError, match="second class of that name"):
        policies.storable(type("Doubled", (eqx.Module,), {"__module__": "elsewhere", "__doc__": "Another."}))
    monkeypatch.delitem(files.CLASSES, "Doubled")
    with pytest.raises(PolicyFileError, match=r"unknown class 'Doubled'; define it with @policies\.storable before loading"):
        policies.load(folder / "after.safetensors")


# Damage


def test_every_flipped_bit_is_seen(folder, blob):
    path = folder / "flipped.safetensors"
    for i in range(len(blob)):
        damaged = bytearray(blob)
        damaged[i] ^= 1 << (i % 8)
        path.write_bytes(damaged)
        with pytest.raises(PolicyFileError, match="policy file"):
            policies.load(path)


def test_every_truncation_and_extension_is_seen(folder, blob):
    for length in [*range(40), *range(40, len(blob), 29), len(blob) - 1]:
        refused(folder, blob[:length])
    refused(folder, blob + b"\0")
    refused(folder, blob + blob)


def test_what_is_no_policy_file(folder, blob):
    with pytest.raises(PolicyFileError, match="got no such file; check the path"):
        policies.load(folder / "nothing.safetensors")
    with pytest.raises(PolicyFileError, match="no regular file"):
        policies.load(folder)
    with pytest.raises(PolicyFileError, match="cannot be opened"):
        policies.load(folder / "null\0byte")
    os.mkfifo(folder / "pipe")
    with pytest.raises(PolicyFileError, match="no regular file"):
        policies.load(folder / "pipe")
    refused(folder, b"", "0 bytes that are not safetensors")
    refused(folder, b"\x80\x04cpickle", "not safetensors")
    refused(folder, b"PK\x03\x04" + bytes(100), "not safetensors")
    refused(folder, struct.pack("<Q", 2**60) + bytes(100), "not safetensors")
    refused(folder, struct.pack("<Q", 4) + b"[[[[", "not JSON")
    refused(folder, struct.pack("<Q", 200_000) + b"[" * 200_000, "not JSON")
    refused(folder, struct.pack("<Q", 2) + b"[]", "no JSON object")
    header, manifest, tensors = parts(blob)
    text = json.dumps({k: v for k, v in header.items() if k != "__metadata__"}).encode()
    refused(folder, struct.pack("<Q", len(text)) + text + tensors, "without a policygrad manifest")
    refused(folder, signed(header, {**manifest, "format": 2}, tensors), "got format 2, this version reads up to 1; upgrade policygrad")
    refused(folder, signed(header, {**manifest, "format": True}, tensors), "no valid format number")


def test_size_caps(folder, blob, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", len(blob) - 1)
    refused(folder, blob, "bytes, .* are allowed")
    monkeypatch.undo()
    monkeypatch.setattr(files, "MAX_HEADER_BYTES", 100)
    refused(folder, blob, "not safetensors")


def edited(manifest, path, value):
    """A manifest with one place of its structure replaced."""
    manifest = json.loads(json.dumps(manifest))
    place = manifest["structure"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return manifest


HEAD = ("fields", "head", "fields")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("class",), "os.system", "unknown class 'os.system'"),
        ((*HEAD, "layer", "class"), "eqx.nn.MLP", "unknown class 'eqx.nn.MLP'"),
        ((*FEATURES_PATH, "activation"), "tahn", "not a working policy"),
        ((*FEATURES_PATH, "activation"), {"tuple": []}, "not a working policy"),
        ((*FEATURES_PATH, "inputs", "fields", "shape"), {"tuple": [4]}, "not a working policy"),
        ((*FEATURES_PATH, "inputs"), None, "not a working policy"),
        ((*FEATURES_PATH, "layers"), {"tuple": []}, "arrays without a place"),
        ((*HEAD, "sigma"), {"tuple": [0.5, 2.0, 1.0]}, "not a working policy"),
        ((*HEAD, "sigma"), [0.5, 2.0], "for a static field"),
        ((*HEAD, "sigma"), {"float": "__import__('os')"}, "for a static field"),
        ((*HEAD, "layer", "fields", "weight"), {"array": "nowhere"}, "no array 'nowhere'"),
        ((*HEAD, "layer", "fields", "weight"), {"array": "head.layer.bias"}, "not a working policy"),
        ((*HEAD, "layer", "fields", "weight"), 1.0, "for a part of a policy"),
        ((*HEAD, "layer", "fields"), {}, "has other fields"),
        (("fields", "action_space"), {"space": "Discrete", "n": 2, "start": 0}, "does not act on Discrete"),
        (("fields", "action_space"), {"space": "Discrete", "n": -2, "start": 0}, "for a static field"),
        (("fields", "observation_space", "dtype"), "object", "for a static field"),
    ],
)
def test_a_structure_that_lies_is_refused_although_its_hash_is_right(folder, blob, path, value, message):
    header, manifest, tensors = parts(blob)
    refused(folder, signed(header, edited(manifest, path, value), tensors), message)


def test_arrays_that_no_policy_has_are_refused_although_the_hash_is_right(folder, blob):
    header, manifest, tensors = parts(blob)
    poisoned = np.frombuffer(tensors, np.float32).copy()
    poisoned[3] = np.nan
    refused(folder, signed(header, manifest, poisoned.tobytes()), "NaN or infinity")
    integers = {name: {**entry, "dtype": "I32"} if name != "__metadata__" else entry for name, entry in header.items()}
    refused(folder, signed(integers, manifest, tensors), "got dtype int32")
    beyond = json.loads(json.dumps(header))
    beyond["head.layer.bias"]["data_offsets"] = [0, 10**12]
    refused(folder, signed(beyond, manifest, tensors), "policy file")
    turned = json.loads(json.dumps(header))
    turned["head.layer.weight"]["shape"] = turned["head.layer.weight"]["shape"][::-1]
    refused(folder, signed(turned, manifest, tensors), "not a working policy")


def test_a_polynomial_that_would_fill_the_memory_is_refused(folder):
    policies.save(policies.polynomial(1)(KEY, Spec(VECTOR, Discrete(2), 1)), folder / "polynomial.safetensors")
    header, manifest, tensors = parts((folder / "polynomial.safetensors").read_bytes())
    for degree in (10, 10**9):
        refused(folder, signed(header, edited(manifest, (*FEATURES_PATH, "degree"), degree), tensors), "not a working policy")


@settings(max_examples=200)
@given(data=st.binary(max_size=200))
def test_random_bytes(folder, data):
    refused(folder, data)
    refused(folder, struct.pack("<Q", len(data)) + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(sorted(files.CLASSES)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["array", "class", "fields", "tuple", "float", "x"]), inner)
    ),
    max_leaves=6,
)


def places(node, path=()):
    """The paths of all parts of a JSON value."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


@settings(max_examples=60)
@given(data=st.data())
def test_random_structures_raise_nothing_else(folder, blob, data):
    header, manifest, tensors = parts(blob)
    path = data.draw(st.sampled_from(list(places(manifest["structure"]))))
    forged = signed(header, edited(manifest, path, data.draw(JSON)), tensors)
    (folder / "forged.safetensors").write_bytes(forged)
    with contextlib.suppress(PolicyFileError):  # another value may be as good as the old one
        jax.tree.leaves(policies.load(folder / "forged.safetensors"))


# Spaces


def test_require_spaces():
    policy = small_policy()
    policies.require_spaces(policy, Box.of(-9, 9, (3,)), Box.of(-2, 2, (2,)), "Any-v0")  # bounds may differ
    policies.require_spaces(Doubled(jnp.ones(1)), VECTOR, Discrete(2), "Any-v0")
    for observation_space, action_space, message in (
        (Box.of(-1, 1, (4,)), policy.action_space, r"for other observations than Any-v0: got Box\(-1, 1, \(4,\)"),
        (Discrete(3), policy.action_space, r"for other observations than Any-v0: got Discrete\(3\)"),
        (VECTOR, Discrete(2), r"for other actions than Any-v0: got Discrete\(2\), it was made for Box"),
    ):
        with pytest.raises(SpaceError, match=message) as caught:
            policies.require_spaces(policy, observation_space, action_space, "Any-v0")
        assert not re.search(r"\n", str(caught.value))
    table = policies.tabular_softmax([[0.0, 1.0]])
    policies.require_spaces(table, Discrete(1, start=7), Discrete(2), "Any-v0")
    with pytest.raises(SpaceError, match="other actions"):
        policies.require_spaces(table, Discrete(1), Discrete(3), "Any-v0")


def test_raw_features_are_compared_by_value():
    """Files rebuild static parts as new objects; a jitted program must take them for the old ones."""
    assert hash(Raw((3,))) == hash(Raw((3,)))
    assert jax.tree.structure(Raw((3,))) == jax.tree.structure(Raw((3,)))
