"""A policy as one file: arrays in safetensors, everything else as JSON in its header. No code, no pickle, no eval.

    the arrays          by path in the Module tree, e.g. "head.layer.weight"
    metadata "policygrad", one JSON object:
      sha256            of the whole file with these 64 digits set to 0: no byte of it can change unseen
      format            the version of this layout
      policygrad        the version that wrote it
      observation_space, action_space
      structure         the Module tree: class names of the table below, static fields, paths of the arrays;
                        null for a policy with a class or function that is not in the table

A file's structure can only name classes of the table and fill in their fields with numbers, strings, tuples, spaces and
arrays; then the rebuilt policy is traced once on its observation space. A policy with a user's own function or Module
keeps its arrays only, and is loaded into another of the same make: `load(path, like=policy)`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from policygrad._version import __version__
from policygrad.errors import OutputError, PolicyFileError, SpaceError, UsageError
from policygrad.policies import critics, features, frozen, heads, memory, networks, normaliser, policy
from policygrad.policies.policy import acts_on
from policygrad.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple, held_dtype, mapped, outline

FORMAT = 1
MAX_BYTES = 2**31
MAX_HEADER_BYTES = 2**24
_KEY = "policygrad"
_NO_DIGEST = "0" * 64
_NO_STRUCTURE = "holds a class or function of its maker's own, which is not saved"

CLASSES: dict[str, type] = {
    **{
        f"eqx.nn.{c.__name__}": c
        for c in (eqx.nn.Linear, eqx.nn.Conv2d, eqx.nn.GRUCell, eqx.nn.LSTMCell, eqx.nn.LayerNorm, eqx.nn.Embedding)
    },
    **{
        c.__name__: c
        for c in (
            *(features.Raw, features.Index, features.OneHot, features.Polynomial, features.Network),
            *(features.JointIndex, features.MultiOneHot, features.Fourier, features.RBF, features.RandomFourier),
            *(features.CNN, features.Joined, frozen.Frozen),
            *(features.StateAction, features.StateActionPolynomial, features.PerStatePolynomial),
            networks.MLP,
            *(policy.Policy, normaliser.Normalised, memory.GRU, memory.LSTM),
            *(heads.TableHead, heads.LinearCategorical, heads.Preferences, heads.LinearGaussian, heads.FixedGaussian, heads.Output),
            *(heads.CategoricalOf, heads.MultiCategoricalOf, heads.BernoulliOf, heads.GaussianOf, heads.FixedGaussianOf),
            *(heads.StateGaussianOf, heads.FullGaussianOf, heads.SquashedOf, heads.BetaOf, heads.JointOf),
            *(critics.Critic, critics.TableValue, critics.WeightedValue, critics.AffineValue),
        )
    },
}
"""The classes that a file may name."""


def storable(cls: type) -> type:
    """Class decorator: lets policy files name this Module class, so that policies with it load without `like=`.

    It must be defined before a file with it is loaded, and its static fields must be numbers, strings, tuples or spaces.
    """
    known = CLASSES.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UsageError(f"storable class {cls.__name__}: got a second class of that name; rename it")
    CLASSES[cls.__name__] = cls  # a notebook cell that is run again defines its class again
    return cls


def save(policy: Any, path: str | os.PathLike[str]) -> None:
    """Writes a policy to one file, whole or not at all: into a temporary file beside it first, then in its place.

    Args:
        policy: a Module whose leaves are finite float arrays.
        path: the file, by convention `*.safetensors`; replaced if it exists.

    Raises:
        UsageError: if the policy holds something that is no finite array of floats.
        OutputError: if the file cannot be written.
    """
    arrays = _arrays(policy)
    spaces = (getattr(policy, "observation_space", None), getattr(policy, "action_space", None))
    manifest = {
        "sha256": _NO_DIGEST,
        "format": FORMAT,
        "policygrad": __version__,
        "observation_space": _encode(spaces[0]) if isinstance(spaces[0], Space) else None,
        "action_space": _encode(spaces[1]) if isinstance(spaces[1], Space) else None,
        "structure": _structure(policy),
    }
    blob = safetensors.numpy.save(arrays, metadata={_KEY: json.dumps(manifest, allow_nan=False)})
    digest = hashlib.sha256(blob).hexdigest()
    _write_atomically(Path(path), blob.replace(_NO_DIGEST.encode(), digest.encode(), 1))


def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Reads a policy back, bit for bit, after checking all of it. Runs nothing that the file brings.

    Float64 arrays become float32 unless JAX is in 64-bit mode.

    Args:
        path: a file that `save` wrote.
        like: a policy of the same structure, whose arrays the file's replace; needed only for policies with their maker's own
            functions or Modules, checked wherever it is given.

    Raises:
        PolicyFileError: if the file is missing, truncated, damaged, not ours, of a newer format, or not like `like`.
    """
    path = Path(path)
    arrays, manifest = _read(path)
    structure = manifest.get("structure")
    if like is not None:
        return _fill(path, like, arrays, manifest)
    if structure is None:
        raise PolicyFileError(f"policy file {path}: this policy {_NO_STRUCTURE}; pass load(path, like=policy) one made the same way")
    try:
        unused = dict(arrays)
        rebuilt = _rebuild(structure, unused)
        if unused:
            raise _DamagedError(f"arrays without a place: {', '.join(sorted(unused)[:3])}")
        _trace(rebuilt)
    except _UnknownClassError as error:
        fix = "define it with @policies.storable before loading, or pass load(path, like=policy)"
        raise PolicyFileError(f"policy file {path}: got the unknown class {error}; {fix}") from None
    except Exception as error:
        raise PolicyFileError(f"policy file {path}: its structure is not a working policy ({_line(error)}); save it again") from error
    return rebuilt


def require_spaces(policy: Any, observation_space: Space, action_space: Space, env_name: str) -> None:
    """Checks that a policy is for an environment's spaces: kind, number and shape; bounds may differ.

    A policy that does not say what it is for passes.

    Raises:
        SpaceError: if it is for others.
    """
    for role, theirs in (("observation", observation_space), ("action", action_space)):
        ours = getattr(policy, f"{role}_space", None)
        if isinstance(ours, Space) and outline(ours) != outline(theirs):
            raise SpaceError(
                f"the policy is for other {role}s than {env_name}: got {theirs}, it was made for {ours};"
                " choose the environment it was trained on, or train one here"
            )


# Saving


class _NotStorableError(Exception):
    """Something that JSON and the table of classes cannot say."""


def _path_name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _arrays(policy: Any) -> dict[str, np.ndarray]:
    """The leaves by path."""
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(policy):
        name = _path_name(path)
        if not isinstance(leaf, jax.Array | np.ndarray) or not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype.itemsize < 4:
            got = f"an array of {leaf.dtype}" if hasattr(leaf, "dtype") else f"a {type(leaf).__name__}"
            raise UsageError(f"policy leaf {name!r}: got {got}; leaves are trained, so float32 or float64 arrays: make it a static field")
        array = np.asarray(leaf)
        if not np.isfinite(array).all():
            raise UsageError(f"policy leaf {name!r}: got NaN or infinity; a diverged policy cannot be saved, keep an earlier one")
        if name in arrays or name == "__metadata__":
            raise UsageError(f"policy leaf {name!r}: got two leaves of that path; rename one")
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes scalars 1-d
    return arrays


def _structure(policy: Any) -> Any:
    """The policy as JSON, or None where JSON and the table of classes cannot say it."""
    try:
        return _describe(policy, ())
    except _NotStorableError:
        return None


def _describe(node: Any, path: tuple) -> Any:
    """A Module tree as JSON, mirrored by `_rebuild`."""
    if node is None:
        return None
    if isinstance(node, jax.Array | np.ndarray):
        return {"array": _path_name(path)}
    if type(node) is tuple:
        return {"tuple": [_describe(child, (*path, jax.tree_util.SequenceKey(i))) for i, child in enumerate(node)]}
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise _NotStorableError("a dict with keys that are no strings")
        return {"dict": [[key, _describe(node[key], (*path, jax.tree_util.DictKey(key)))] for key in sorted(node)]}
    name = next((name for name, cls in CLASSES.items() if cls is type(node)), None)
    if name is None:
        raise _NotStorableError(type(node).__name__)
    fields = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if field.metadata.get("static", False):
            fields[field.name] = _encode(value)
        else:
            fields[field.name] = _describe(value, (*path, jax.tree_util.GetAttrKey(field.name)))
    return {"class": name, "fields": fields}


def _encode(value: Any) -> Any:
    """A static value as strict JSON, which knows neither tuples nor infinities; mirrored by `_decode`."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value) is tuple:
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, Discrete):
        return {"space": "Discrete", "n": value.n, "start": value.start}
    if isinstance(value, Box):
        return {"space": "Box", "low": _encode(value.low), "high": _encode(value.high), "shape": _encode(value.shape), "dtype": value.dtype}
    if isinstance(value, MultiDiscrete):
        return {"space": "MultiDiscrete", **{name: _encode(getattr(value, name)) for name in ("counts", "shape", "starts")}}
    if isinstance(value, MultiBinary):
        return {"space": "MultiBinary", "shape": _encode(value.shape)}
    if isinstance(value, Dict | Tuple):
        return {"space": type(value).__name__, "parts": _encode(value.parts)}
    raise _NotStorableError(type(value).__name__)


def _write_atomically(path: Path, blob: bytes) -> None:
    try:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "xb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if hasattr(os, "O_DIRECTORY"):  # the new name itself is on disk only when its folder is
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, ValueError) as error:  # ValueError: an empty name, or a null byte in it
        raise OutputError(f"policy file {path}: cannot be written, got {_line(error)}; choose a folder that exists and has room") from error


# Loading


class _DamagedError(Exception):
    """The structure says something that no saved policy says."""


class _UnknownClassError(_DamagedError):
    """A class that is not in the table."""


def _line(error: BaseException) -> str:
    """An exception as part of one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the manifest of a file, all verified but the structure."""
    damaged = "it is damaged or no policy file; take another copy"
    blob = _read_bytes(path)
    header = _json_object(path, blob[8 : 8 + _header_size(path, blob)], damaged)
    metadata = header.get("__metadata__")
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise PolicyFileError(f"policy file {path}: got safetensors without a policygrad manifest; give a file that policies.save wrote")
    manifest = _json_object(path, text.encode(errors="replace"), damaged)
    version = manifest.get("format")
    if type(version) is not int or version < 1:
        raise PolicyFileError(f"policy file {path}: got no valid format number; {damaged}")
    if version > FORMAT:
        raise PolicyFileError(f"policy file {path}: got format {version}, this version reads up to {FORMAT}; upgrade policygrad")
    digest = manifest.get("sha256")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise PolicyFileError(f"policy file {path}: got no SHA-256; {damaged}")
    if hashlib.sha256(blob.replace(digest.encode(), _NO_DIGEST.encode(), 1)).hexdigest() != digest:
        raise PolicyFileError(f"policy file {path}: its SHA-256 does not match, it was truncated or changed; take another copy")
    try:
        arrays = safetensors.numpy.load(blob)
    except Exception as error:
        raise PolicyFileError(f"policy file {path}: got {_line(error)}; {damaged}") from error
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise PolicyFileError(f"policy file {path}: array {name!r} got dtype {array.dtype}; only float32 and float64 are policies'")
        if not np.isfinite(array).all():
            raise PolicyFileError(f"policy file {path}: array {name!r} got NaN or infinity; take another copy")
    return arrays, manifest


def _read_bytes(path: Path) -> bytes:
    try:
        # Non-blocking, so that a named pipe cannot hang the open; the size is that of the file read, not of a name.
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise PolicyFileError(f"policy file {path}: got no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise PolicyFileError(f"policy file {str(path)!r}: cannot be opened, got {_line(error)}; check the path and its rights") from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise PolicyFileError(f"policy file {path}: got something that is no regular file; give the file itself")
        if status.st_size > MAX_BYTES:
            raise PolicyFileError(f"policy file {path}: got {status.st_size:,} bytes, {MAX_BYTES:,} are allowed; is it a policy?")
        with open(file, "rb", closefd=False) as stream:
            return stream.read(MAX_BYTES)
    except OSError as error:
        raise PolicyFileError(f"policy file {path}: cannot be read, got {_line(error)}; take another copy") from error
    finally:
        os.close(file)


def _header_size(path: Path, blob: bytes) -> int:
    size = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or not 2 <= size <= min(len(blob) - 8, MAX_HEADER_BYTES):
        raise PolicyFileError(f"policy file {path}: got {len(blob):,} bytes that are not safetensors, or a part of it; take another copy")
    return size


def _json_object(path: Path, text: bytes, fix: str) -> dict:
    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text.decode(), parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise PolicyFileError(f"policy file {path}: got a header that is not JSON ({_line(error)}); {fix}") from None
    if not isinstance(value, dict):
        raise PolicyFileError(f"policy file {path}: got a header that is no JSON object; {fix}")
    return value


def _rebuild(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `_describe`; takes what it uses out of `arrays`."""
    match node:
        case None:
            return None
        case {"array": str(name), **rest} if not rest:
            if name not in arrays:
                raise _DamagedError(f"no array {name!r}")
            with np.errstate(over="ignore"):  # float64 that float32 cannot hold: refused below
                array = jnp.asarray(arrays.pop(name))
            if not np.isfinite(np.asarray(array)).all():
                raise _DamagedError(f"array {name!r} does not fit into {array.dtype}")
            return array
        case {"tuple": list(children), **rest} if not rest:
            return tuple(_rebuild(child, arrays) for child in children)
        case {"dict": list(children), **rest} if not rest and all(
            isinstance(child, list) and len(child) == 2 and isinstance(child[0], str) for child in children
        ):
            return {key: _rebuild(child, arrays) for key, child in children}
        case {"class": str(name), "fields": dict(given), **rest} if not rest:
            if name not in CLASSES:
                raise _UnknownClassError(repr(name))
            cls = CLASSES[name]
            fields = dataclasses.fields(cls)
            absent = {field.name: field.default for field in fields if field.name not in given}  # as files of earlier versions have it
            if not set(given) <= {field.name for field in fields} or dataclasses.MISSING in absent.values():
                raise _DamagedError(f"{name} has other fields: {', '.join(sorted(given))}")
            module = object.__new__(cls)  # fields are set as JAX's own unflatten does; no initialiser runs
            for field in fields:
                if field.name in absent:
                    object.__setattr__(module, field.name, absent[field.name])
                    continue
                value = given[field.name]
                static = field.metadata.get("static", False)
                object.__setattr__(module, field.name, _decode(value) if static else _rebuild(value, arrays))
            return module
    raise _DamagedError(f"got {str(node)[:60]} for a part of a policy")


def _decode(value: Any) -> Any:
    """The inverse of `_encode`."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case {"float": ("inf" | "-inf" | "nan") as text, **rest} if not rest:
            return float(text)
        case {"tuple": list(items), **rest} if not rest:
            return tuple(_decode(item) for item in items)
        case {"space": "Discrete", "n": int(n), "start": int(start), **rest} if not rest and n > 0:
            return Discrete(n, start)
        case {"space": "Box", "low": low, "high": high, "shape": shape, "dtype": str(dtype), **rest} if (
            not rest and np.dtype(dtype).kind in "biuf"
        ):
            return Box(_decode(low), _decode(high), _decode(shape), dtype)
        case {"space": "MultiDiscrete", "counts": counts, "shape": shape, "starts": starts, **rest} if not rest:
            counts, shape, starts = _whole_numbers(counts, 1), _whole_numbers(shape, 0), _whole_numbers(starts)
            if math.prod(shape) == len(counts) and len(starts) in (0, len(counts)):
                return MultiDiscrete(counts, shape, starts)
        case {"space": "MultiBinary", "shape": shape, **rest} if not rest:
            return MultiBinary(_whole_numbers(shape, 0))
        case {"space": "Dict", "parts": {"tuple": list(parts)}, **rest} if not rest and parts:
            named = tuple(_decode(part) for part in parts)
            good = all(type(part) is tuple and len(part) == 2 and type(part[0]) is str and isinstance(part[1], Space) for part in named)
            if good and [part[0] for part in named] == sorted({part[0] for part in named}):
                return Dict(named)
        case {"space": "Tuple", "parts": {"tuple": list(parts)}, **rest} if not rest and parts:
            decoded = tuple(_decode(part) for part in parts)
            if all(isinstance(part, Space) for part in decoded):
                return Tuple(decoded)
    raise _DamagedError(f"got {str(value)[:60]} for a static field")


def _whole_numbers(value: Any, least: int | None = None) -> tuple[int, ...]:
    """A tuple of integers that JSON says, all ≥ least."""
    numbers = _decode(value)
    if type(numbers) is not tuple or not all(type(n) is int and (least is None or n >= least) for n in numbers):
        raise _DamagedError(f"got {str(value)[:60]} for whole numbers")
    return numbers


def _trace(policy: Any) -> None:
    """Traces a policy once on its own observation space, computing nothing, and compares what it returns with its action space.

    This is what finds arrays of wrong shapes and static fields that do not go together.
    """
    hash(jax.tree.structure(policy))
    observations, actions = getattr(policy, "observation_space", None), getattr(policy, "action_space", None)
    if not (isinstance(observations, Space) and isinstance(actions, Space) and hasattr(policy, "unroll")):
        return  # a part of a policy, or a critic
    obs = mapped(lambda leaf: jax.ShapeDtypeStruct((2, 3, *leaf.shape), held_dtype(leaf)), observations)
    resets = jax.ShapeDtypeStruct((2, 3), bool)

    def act(policy: Any, obs: Any, resets: Any) -> Any:
        carry = jax.tree.map(lambda leaf: leaf[None], policy.initial(3))
        distribution, _ = policy.unroll(carry, obs, resets)
        action = distribution.sample(jax.random.key(0))
        return action, distribution.log_prob(action), distribution

    action, log_prob, distribution = jax.eval_shape(act, policy, obs, resets)
    if not acts_on(actions, (2, 3), distribution, action, log_prob):
        raise _DamagedError(f"it does not act on {actions}")


def _fill(path: Path, like: Any, arrays: dict[str, np.ndarray], manifest: dict) -> Any:
    """`like` with the file's arrays."""
    fix = "pass a policy that was made the way the saved one was"
    expected = _arrays(like)
    if set(expected) != set(arrays):
        one = sorted(set(expected) ^ set(arrays))[0]
        raise PolicyFileError(f"policy file {path}: got other arrays than `like` has, {one!r} is in only one of them; {fix}")
    for name, array in expected.items():
        got = arrays[name]
        if (got.shape, got.dtype) != (array.shape, array.dtype):
            raise PolicyFileError(f"policy file {path}: {name!r} got {got.dtype}{got.shape}, `like` has {array.dtype}{array.shape}; {fix}")
    differs = manifest.get("structure") not in (None, _structure(like))
    for role in ("observation_space", "action_space"):
        space = getattr(like, role, None)
        differs |= isinstance(space, Space) and manifest.get(role) != _encode(space)
    if differs:
        raise PolicyFileError(f"policy file {path}: got another structure or other spaces than `like` has; {fix}")
    leaves = jax.tree_util.tree_leaves_with_path(like)
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(arrays[_path_name(p)]) for p, _ in leaves])
