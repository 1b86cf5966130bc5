"""Error messages for unknown options, with suggestions of similar ones."""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_OTHER_NAMES = {
    "batch": ("batch_size",),
    "bs": ("batch_size",),
    "cfg_scale": ("guidance_scale",),
    "checkpoint_path": ("checkpoint", "resume"),
    "ckpt": ("checkpoint",),
    "classes": ("num_classes",),
    "clip": ("gradient_clip_val",),
    "cuda": ("accelerator",),
    "dataset": ("data",),
    "device": ("accelerator",),
    "diffusion_steps": ("num_train_timesteps",),
    "dtype": ("precision",),
    "ema_decay": ("decay",),
    "epoch": ("max_epochs",),
    "epochs": ("max_epochs",),
    "fp16": ("precision",),
    "gpu": ("accelerator",),
    "gpus": ("accelerator", "devices"),
    "grad_clip": ("gradient_clip_val",),
    "guidance": ("guidance_scale",),
    "inference_steps": ("num_steps",),
    "iterations": ("max_steps",),
    "learning_rate": ("lr",),
    "logdir": ("log_dir",),
    "loss_weighting": ("weighting",),
    "max_iters": ("max_steps",),
    "n": ("num_samples",),
    "n_samples": ("num_samples",),
    "noise": ("noise_schedule",),
    "num_epochs": ("max_epochs",),
    "num_inference_steps": ("num_steps",),
    "num_timesteps": ("num_train_timesteps",),
    "optim": ("optimizer",),
    "output": ("out",),
    "output_dir": ("out",),
    "random_seed": ("seed",),
    "run_dir": ("run",),
    "sampling_steps": ("num_steps",),
    "schedule": ("noise_schedule",),
    "scheduler": ("noise_schedule", "lr_scheduler", "sampler"),
    "step": ("max_steps", "num_steps"),
    "steps": ("max_steps", "num_steps"),
    "timesteps": ("num_train_timesteps",),
    "w": ("guidance_scale",),
    "wd": ("weight_decay",),
}
"""Name of an option in other programs -> names of the corresponding options here."""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


_BY_PLAIN_NAME = {_plain(name): meant for name, meant in _OTHER_NAMES.items()}
_NOT_FOR_TYPING = ("hydra", "command")
_MOST = 6  # suggestions in a message


def unknown_option(
    key: str,
    config: Any,
    known: Iterable[str],
    typed: str = "",
    is_open: bool = False,
    arguments: Sequence[str] = (),
) -> str:
    """Return the message for an unknown `key`: suggest similar options, or list the known ones.

    `key` is the full name (a.b.c), `config` the whole configuration, `known` the keys of the node
    in which `key` was looked up. `typed` is the override, "" for a key in a file. `is_open` is True
    for a node whose class may accept more keys than the node has. `arguments` are those of a
    user-defined class, which can be added by ++.
    """
    value = typed.partition("=")[2] if typed.startswith(f"{key}=") else ""
    there = [full for full in _all_keys(config) if full != key]
    parent, _, name = key.rpartition(".")
    meant = _meant(name, there, sorted(known), parent)
    line = f"{key} is unknown: "
    if not meant and (near := get_close_matches(name, arguments, cutoff=0.75)):
        return (
            line + f"did you mean {' or '.join(f'++{parent}.{other}={value}' for other in near)}?"
        )
    if meant:
        full_names = [f"{full}={value}" if value else full for full in meant[:_MOST]]
        line += f"did you mean {' or '.join(full_names)}?"
    else:
        line += f"choose from {sorted(known)}"
    if is_open and typed:
        line += (
            f"{' If' if meant else '; if'} the class of this node takes the key, or another option "
            f"swept by -m has the key, type ++{typed}"
        )
    return line


def _meant(name: str, there: list[str], known: list[str], parent: str) -> list[str]:
    """Return the full names of options similar to `name`, the likeliest first.

    `known` are the keys of the node `parent`, and `there` are the full names of all options. Names
    outside the node are returned only if no key of the node is similar.
    """

    def ending(names: Iterable[str]) -> list[str]:
        wanted = set(names)
        found = [full for full in there if full.rpartition(".")[2] in wanted]
        return sorted(found, key=lambda full: (full.count("."), full))

    beside = f"{parent}." if parent else ""
    others = _BY_PLAIN_NAME.get(_plain(name), ())
    if here := [f"{beside}{other}" for other in others if other in known]:
        return here
    close = get_close_matches(name, known, n=3, cutoff=0.75)
    if close := close or get_close_matches(name, known, n=1, cutoff=0.65):  # rezise
        return [f"{beside}{other}" for other in close]
    leaves = {full.rpartition(".")[2] for full in there}
    return ending(others) or ending([name]) or ending(get_close_matches(name, leaves, cutoff=0.8))


def _all_keys(config: Any) -> Iterator[str]:
    """Yield the full name (a.b.c) of every key of `config` that a user may override."""
    if not isinstance(config, Mapping):
        return

    def below(node: Mapping[Any, Any], path: str) -> Iterator[str]:
        for key, child in node.items():
            full = f"{path}{key}"
            # `model` repeats the other groups, as interpolations
            twice = path == "model." and key in config
            if str(key).startswith("_") or full in _NOT_FOR_TYPING or twice:
                continue
            yield full
            if isinstance(child, Mapping):
                yield from below(child, f"{full}.")

    yield from below(config, "")


def unknown_key(error: OmegaConfBaseException, typed: str) -> str:
    """Return the message for an unknown key that OmegaConf reports.

    `typed` is the override with the key, "" for a key in a file.
    """
    parent, known = error.parent_node, _known_keys(error)
    config: Any = {}
    if isinstance(parent, Container):
        root = parent._get_root()
        config = OmegaConf.to_container(root, resolve=False) if OmegaConf.is_config(root) else {}
    is_open = isinstance(parent, DictConfig) and "_target_" in parent and not _has_schema(parent)
    arguments = _arguments(parent["_target_"]) if is_open else []
    return unknown_option(str(error.full_key), config, known, typed, is_open, arguments)


def _arguments(target: str) -> list[str]:
    """Return the arguments of a class or function in the working folder; [] for others.

    The file is parsed and not imported, because a saved run may name it.
    """
    module, _, name = target.rpartition(".")
    try:
        body = ast.parse(Path(f"{module.replace('.', '/')}.py").read_text()).body
    except (OSError, SyntaxError, ValueError):
        return []
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            body, name = node.body, "__init__"
    return [
        argument.arg
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name == name
        for argument in (*node.args.args, *node.args.kwonlyargs)
        if argument.arg != "self"
    ]


def _has_schema(node: DictConfig) -> bool:
    return is_dataclass(OmegaConf.get_type(node))


def _known_keys(error: OmegaConfBaseException) -> list[str]:
    """Return the valid keys of the node in which OmegaConf found an unknown key."""
    keys: Iterable[Any] = ()
    if isinstance(error.parent_node, DictConfig):
        keys = error.parent_node.keys()
    elif is_dataclass(error.object_type):
        keys = (f.name for f in fields(error.object_type))
    names = [str(key) for key in keys if not str(key).startswith("_")]
    return [name for name in names if name not in _NOT_FOR_TYPING]
