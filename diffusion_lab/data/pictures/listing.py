"""Find the pictures of a folder or zip file: splits, classes, and a fingerprint of all files."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from diffusion_lab.data.image_set import MAX_CLASSES
from diffusion_lab.data.pictures.decode import SUFFIXES
from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)

_TRAIN, _TEST = ("train", "training"), ("test", "testing")
_VAL = ("val", "valid", "validation")


@dataclass(frozen=True)
class _Split:
    """Pictures of a split, and the folders they lie in, such as ("train/", "val/")."""

    prefixes: tuple[str, ...]
    names: list[str]

    def below(self, name: str) -> str:
        """Return a name relative to its folder of the split."""
        return name.removeprefix(next(p for p in self.prefixes if name.startswith(p)))


@dataclass(frozen=True)
class Pictures:
    """Names of the pictures of a split, relative to the root, and their labels (N,) int64."""

    names: tuple[str, ...]
    labels: np.ndarray


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder or zip file.

    Attributes:
        root: the folder or zip file.
        train, test: pictures by split; test is None if the root has no folder of test pictures.
        classes: names of the classes in the order of the labels; empty for unlabelled pictures,
            whose labels are 0.
        top: the folder that counts as the top level, such as "photos/"; empty for the root.
        fingerprint: SHA-256 of the names, sizes and modification times (in a zip file checksums)
            of all pictures.

    """

    root: Path
    train: Pictures
    test: Pictures | None
    classes: tuple[str, ...]
    top: str
    fingerprint: str


def list_pictures(path: str | Path, labelled: bool | str = "auto") -> Listing:
    """List the pictures of a folder or zip file, with their splits and classes.

    Folders named train and test (or val) on the top level are the splits; with all three, the
    pictures of val are training pictures. Within a split each folder is a class, numbered in
    alphabetical order. Pictures that are not in folders have no classes. With labelled=False
    folders are no classes; labelled=True requires classes. Other files are ignored. If all pictures
    lie in subfolders of one folder, that folder counts as the top level.

    Raises:
        UserError: for a path without pictures, a damaged zip file, a zip file with unsafe names, a
            split with pictures both in class folders and beside them, a single class or too many,
            an empty class folder, or a test class without training pictures.

    """
    root = Path(path).expanduser()
    digest = hashlib.sha256()
    names: list[str] = []
    folders: set[str] = set()
    others: list[str] = []
    for name, stamp in _entries(root, folders, others):
        names.append(name)
        digest.update(f"{name}\0{stamp}\n".encode("utf-8", "surrogateescape"))
    if not names:
        raise UserError(
            f"data.path={path} holds no pictures: expected files that end in {', '.join(SUFFIXES)}"
        )
    if others:
        log.info("%d other files in %s are passed over, such as %s", len(others), path, others[0])
    top = _top(names)
    if top:
        log.info("all pictures of %s lie in its folder %s", path, top)
    place = f"{path}/{top}".rstrip("/") if top else str(path)
    splits = _splits(place, [name.removeprefix(top) for name in names])
    classes: tuple[str, ...] = ()
    if labelled is not False:
        below = {folder.removeprefix(top) for folder in folders if folder.startswith(top)}
        classes = _classes(place, splits, below, demanded=labelled is True)
    listed = [_labelled(top, split, classes) for split in splits]
    test = listed[1] if len(listed) > 1 else None
    return Listing(root, listed[0], test, classes, top, digest.hexdigest())


def _entries(root: Path, folders: set[str], others: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, state) of every picture, sorted by name; collect folders and other files.

    The state is the file's size and modification time, or its size and checksum in a zip file.
    """
    if root.is_dir():
        yield from sorted(_walk(root, "", folders, others))
        return
    if not root.exists():
        raise UserError(
            f"data.path={root} does not exist: type data.path=<folder of pictures or zip file>"
        )
    try:
        with zipfile.ZipFile(root) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(
            f"data.path={root} is neither a folder nor a readable zip file ({error}): copy the zip "
            "file again, or type another data.path="
        ) from error
    found = []
    for info in infos:
        place = PurePosixPath(info.filename)
        if place.is_absolute() or ".." in place.parts or "\\" in info.filename:
            raise UserError(
                f"data.path={root}: the name {info.filename!r} leads out of the zip file; expected "
                "relative names without '..': make the zip file again"
            )
        if _hidden(place.parts):
            continue
        folders.update(str(parent) for parent in place.parents)
        if info.is_dir():
            folders.add(str(place))
        elif _is_picture(info.filename):
            found.append((info.filename, f"{info.file_size} {info.CRC}"))
        else:
            others.append(info.filename)
    yield from sorted(found)


def _walk(
    folder: Path, prefix: str, folders: set[str], others: list[str]
) -> Iterator[tuple[str, str]]:
    try:
        for entry in list(os.scandir(folder)):
            if _hidden([entry.name]):
                continue
            if entry.is_dir():
                folders.add(f"{prefix}{entry.name}")
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", folders, others)
            elif _is_picture(entry.name):
                about = entry.stat()
                yield f"{prefix}{entry.name}", f"{about.st_size} {about.st_mtime_ns}"
            else:
                others.append(f"{prefix}{entry.name}")
    except OSError as error:  # also of a link to nowhere, or to a folder around it
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): check its permissions, or remove "
            "it if it is a broken link"
        ) from error


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def _top(names: Sequence[str]) -> str:
    """Return the folder, such as "photos/", whose subfolders hold all pictures; "" for the root."""
    top = ""
    while True:
        first, *deeper = names[0].removeprefix(top).split("/")
        inner = f"{top}{first}/"
        if not deeper or first.lower() in _TRAIN:
            return top
        if any(not n.startswith(inner) or "/" not in n.removeprefix(inner) for n in names):
            return top
        top = inner


def _splits(path: str, names: list[str]) -> list[_Split]:
    """Return the training split and, if any, the test split."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    train, test, val = (
        sorted(top for top in tops if top.lower() in known) for known in (_TRAIN, _TEST, _VAL)
    )
    if not train:
        return [_Split(("",), names)]
    if max(map(len, (train, test, val))) > 1:
        raise UserError(
            f"data.path={path} holds the folders {', '.join([*train, *test, *val])}: expected at "
            "most one for training, one for testing and one for validation"
        )
    if test and val:
        log.info(
            "the pictures in %s/ are training pictures; data.val_size= of all are held out", *val
        )
        train, val = [*train, *val], []
    chosen = [tuple(f"{top}/" for top in tops) for tops in (train, test or val) if tops]
    known = tuple(prefix for prefixes in chosen for prefix in prefixes)
    others = [name for name in names if not name.startswith(known)]
    if others:
        raise UserError(
            f"data.path={path}: {others[0]} lies beside {known[0]}: expected all pictures in "
            f"{' and '.join(known)}; move the picture there, or type another data.path="
        )
    return [_Split(ps, [name for name in names if name.startswith(ps)]) for ps in chosen]


def _classes(path: str, splits: list[_Split], folders: set[str], demanded: bool) -> tuple[str, ...]:
    """Return the sorted names of the class folders; empty for pictures without class folders."""
    found: list[set[str]] = []
    for split in splits:
        below = [split.below(name) for name in split.names]
        loose = [name for name in split.names if "/" not in split.below(name)]
        if loose and len(loose) == len(below):
            if demanded:
                raise UserError(
                    f"data.path={path} has no class folders, but data.labelled=true: put the "
                    "pictures of each class into a folder, or type data.labelled=false"
                )
            return ()
        if loose:
            raise UserError(
                f"data.path={path}: {loose[0]} lies beside folders with pictures: move the "
                "picture into a class folder, or type data.labelled=false to use all pictures "
                "without labels"
            )
        found.append({name.partition("/")[0] for name in below})
    classes = found[0]
    if len(classes) == 1:
        raise UserError(
            f"data.path={path} has only one class folder, {next(iter(classes))}: expected two or "
            "more; for pictures without classes type data.labelled=false"
        )
    if len(classes) > MAX_CLASSES:
        raise UserError(
            f"data.path={path} has {len(classes)} class folders: expected at most {MAX_CLASSES}, "
            "or type data.labelled=false for pictures without classes"
        )
    for prefix in splits[0].prefixes:
        below = [folder.removeprefix(prefix) for folder in folders if folder.startswith(prefix)]
        if empty := {name for name in below if "/" not in name} - classes - {"", "."}:
            raise UserError(
                f"data.path={path}: the class folder {prefix}{min(empty)} holds no pictures; "
                "remove the folder, or put pictures into it"
            )
    if len(found) > 1 and (unknown := found[1] - classes):
        raise UserError(
            f"data.path={path}: the class {min(unknown)} has test pictures but no training "
            "pictures; expected the same class folders in both splits"
        )
    return tuple(sorted(classes))


def _labelled(top: str, split: _Split, classes: tuple[str, ...]) -> Pictures:
    """Return the pictures of a split with their labels; names begin with the folder `top`."""
    index = {name: number for number, name in enumerate(classes)}
    labels = [index[split.below(name).partition("/")[0]] if classes else 0 for name in split.names]
    return Pictures(tuple(f"{top}{name}" for name in split.names), np.asarray(labels, np.int64))
