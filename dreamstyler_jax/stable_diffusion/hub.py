"""Models on the Hugging Face Hub and in buckets: which files are needed, and fetching these alone.

The list of files and the small configs come first, so that a model that cannot be used is refused before its weights
are downloaded. What was downloaded lies in the hub's own cache, and an interrupted download is continued. A folder in a
bucket is treated in the same way; its files lie in this project's cache.
"""

import dataclasses
import glob
import re
import sys
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from dreamstyler_jax.runtime.buckets import in_bucket, path_of
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.local_copies import BucketFolder, announce_download, local_copy
from dreamstyler_jax.stable_diffusion.weight_names import require_variant, require_weights

_TOKENIZER = (
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
_ROOT = {"model_index.json", "config.json", "preprocessor_config.json", "processor_config.json", *_TOKENIZER}
_SMALL = re.compile(
    r"scheduler/[^/]+\.json|(text_encoder|text_encoder_2|unet|vae)/config\.json"
    rf"|tokenizer(_2)?/({'|'.join(map(re.escape, _TOKENIZER))})"
)
_WHOLE = {"model_index.json", "unet/config.json"}  # one of them is in every whole model in diffusers' layout
_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
_INSIDE = ("clip/", "controlnet/")  # other networks that may lie in the folder of a model, though on no hub
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


@dataclasses.dataclass(frozen=True)
class HubName:
    """What a hub id or a URL of the hub names.

    Attributes:
        repo: ``owner/name``.
        revision: branch, tag or commit, if it names one.
        file: the path in the repository, of a URL of a file.
    """

    repo: str
    revision: str | None = None
    file: str = ""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Reads ``owner/name``, ``owner/name@revision`` or a URL as a browser shows it; None for anything else.

        Raises:
            UserError: a URL of something else than a model or a file of one.
        """
        scheme, _, rest = text.rpartition("://")
        host, _, rest = rest.partition("/")
        if host.lower() not in _HOSTS:
            if scheme:
                raise UserError(f"{text} is not on the Hugging Face Hub: download the file, and give its path")
            match = _ID.fullmatch(text)
            return cls(match[1], match[2]) if match else None
        path_of_url = re.split(r"[?#]", rest)[0]
        owner, name, kind, revision, *path = [urllib.parse.unquote(p) for p in path_of_url.split("/") if p] + [""] * 4
        file = "/".join(filter(None, path))
        if owner in ("datasets", "spaces") or not _ID.fullmatch(f"{owner}/{name}"):
            raise UserError(f"{text} is no model: give a URL such as https://huggingface.co/owner/name")
        if file and kind not in ("blob", "resolve"):
            raise UserError(f"{text} is a folder inside a model: give the model, {owner}/{name}")
        return cls(f"{owner}/{name}", revision or None, file if kind in ("blob", "resolve") else "")


def resolve_model(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    allow_pickle: bool = False,
    parts: Collection[str] = (),
    check: Callable[[Path], None] = lambda small_files: None,
) -> Path:
    """Finds a model folder on this machine, in a bucket or, by its name, on the Hugging Face Hub.

    Args:
        model: a local folder, the URL of one in a bucket, ``owner/name``, ``owner/name@revision``, or a URL of the hub;
            an existing folder of that name has precedence.
        revision: branch, tag or commit of the hub repository; it has precedence over one in the name.
        variant: the word in the names of the weights to download, where there are such; otherwise those without.
        allow_pickle: whether ``.bin`` files are wanted where there is no safetensors file.
        parts: the folders of a whole model, such as ``unet``, whose weights are needed.
        check: is called with a folder that holds the small files, before any weights are downloaded.

    Returns:
        The folder. A downloaded one lies in a cache and holds only the files that this package reads.

    Raises:
        UserError: there is no such folder and it is not a hub name, or the download failed, or `check` raised it.
    """
    folder, text = Path(model), str(model)
    if folder.is_dir():
        check(folder)
        return folder
    if folder.is_file():
        raise UserError(f"{text} is a file: give the folder of a model")
    source = BucketFolder.look_up(path_of(text)) if in_bucket(text) else _Repository.named(text, revision)
    _refuse_other_layouts(source.name, source.files)
    small = [file for file in source.files if file in _ROOT or _SMALL.fullmatch(file)]
    check(source.fetch(small))
    try:
        weights = wanted_weights(source.name, source.files, variant, allow_pickle, parts)
    except UserError as error:
        if isinstance(source, BucketFolder) or source.cached is None:
            raise
        raise UserError(
            f"the hub cannot be reached, and an earlier run has downloaded only a part of {source.name}: go online "
            "(without HF_HUB_OFFLINE) and try again"
        ) from error
    inside = [file for file in source.files if isinstance(source, BucketFolder) and file.startswith(_INSIDE)]
    return source.fetch([*small, *weights, *inside])


def downloaded_file(model: str | Path, *, revision: str | None = None) -> Path | None:
    """Downloads the file that a URL of the hub or of a bucket names; None if ``model`` is no such URL.

    Raises:
        UserError: the download failed.
    """
    if in_bucket(model):
        try:
            return None if path_of(model).is_dir() else local_copy(path_of(model))
        except FileNotFoundError as error:
            raise UserError(f"there is no file or folder {model}") from error
    name = HubName.parse(str(model))
    if name is None or not name.file:
        return None
    repository = _Repository.look_up(name.repo, revision or name.revision)
    if name.file not in repository.files:
        raise UserError(f"{name.repo} has no file {name.file}, only {listing(sorted(repository.files))}")
    return repository.fetch([name.file]) / name.file


def wanted_weights(
    repo: str, files: Collection[str], variant: str | None, allow_pickle: bool, parts: Collection[str]
) -> list[str]:
    """The weights to download.

    Args:
        repo: names the repository in errors.
        files: all of its files.
        variant, allow_pickle, parts: as for `resolve_model`.

    Raises:
        UserError: a part has no weights that can be read; the message says what it has instead.
    """
    whole = not _WHOLE.isdisjoint(files)
    folders = [f"{part}/" for part in parts if f"{part}/config.json" in files] if whole else [""]
    names_by_folder = {
        folder: [name for file in files if file.startswith(folder) and "/" not in (name := file.removeprefix(folder))]
        for folder in folders
    }
    if len(folders) > 1:
        require_variant(repo, names_by_folder.values(), variant)
    wanted = []
    for folder, names in names_by_folder.items():
        found = require_weights(f"{repo}/{folder}".rstrip("/"), names, variant, pickles=allow_pickle)
        wanted += [folder + name for name in names if found.covers(name)]
    return wanted


def _refuse_other_layouts(repo: str, files: Collection[str]) -> None:
    """Refuses repositories that hold neither a model in diffusers' layout nor a single network."""
    if "config.json" in files or not _WHOLE.isdisjoint(files):
        return
    if singles := sorted(file for file in files if re.fullmatch(r"[^/]+\.(safetensors|ckpt)", file)):
        url = f"{repo}/{singles[0]}" if in_bucket(repo) else f"https://huggingface.co/{repo}/blob/main/{singles[0]}"
        raise UserError(
            f"{repo} holds {listing(singles)} and no folder in diffusers' layout: give a file, such as {url}"
        )
    exports = [file for file in files if file.endswith((".onnx", ".onnx_data"))]
    what = "a model for ONNX alone" if exports else f"no model in diffusers' layout, but {listing(sorted(files), 3)}"
    raise UserError(f"{repo} holds {what}: give the model that it was made from")


@dataclasses.dataclass(frozen=True)
class _Repository:
    """One commit of a repository, or what an earlier run downloaded of it.

    Attributes:
        name: ``owner/name``.
        revision: branch, tag or commit as asked for.
        commit: the commit.
        files: the size in bytes of each file.
        cached: the folder of the files that are here, where the hub cannot be reached.
    """

    name: str
    revision: str | None
    commit: str | None
    files: Mapping[str, int]
    cached: Path | None = None

    @classmethod
    def named(cls, text: str, revision: str | None) -> Self:
        """Finds the repository that a hub id or a URL of the hub names."""
        name = HubName.parse(text)
        if name is None or name.file:
            raise UserError(f"no model folder {text!r}; give an existing folder or a hub name such as owner/name")
        return cls.look_up(name.repo, revision or name.revision)

    @classmethod
    def look_up(cls, repo: str, revision: str | None) -> Self:
        """Lists the files of a repository at a revision; without a connection, those in the hub's cache."""
        import huggingface_hub

        with _explaining(repo, revision):
            try:
                info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
            except Exception as error:
                if not _is_unreachable(error):
                    raise
                folder = huggingface_hub.snapshot_download(
                    repo, revision=revision, local_files_only=True, allow_patterns=["model_index.json"]
                )
                paths = [path for path in Path(folder).rglob("*") if path.is_file()]
                files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
                return cls(repo, revision, Path(folder).name, files, Path(folder))
        return cls(repo, revision, info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})

    def fetch(self, files: Sequence[str]) -> Path:
        """Downloads those of these files that the cache lacks; returns the folder that holds them."""
        import huggingface_hub

        if self.cached:
            return self.cached
        cached = [huggingface_hub.try_to_load_from_cache(self.name, file, revision=self.commit) for file in files]
        missing = [file for file, path in zip(files, cached, strict=True) if not isinstance(path, str)]
        announce_download(self.name, [self.files[file] for file in missing])
        with _explaining(self.name, self.revision):
            patterns = [glob.escape(file) for file in missing or files]
            return Path(huggingface_hub.snapshot_download(self.name, revision=self.revision, allow_patterns=patterns))


def _is_unreachable(error: Exception) -> bool:
    """Whether an error of the hub's client means that there is no connection, or that the hub is down."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500
    # Versions of the client differ in their HTTP library; the names of its errors are the same.
    http_library = sys.modules[errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
    return isinstance(error, errors.OfflineModeIsEnabled | http_library.TransportError)


@contextmanager
def _explaining(repo: str, revision: str | None) -> Iterator[None]:
    """Turns the errors of the hub's client into lines that say what to do."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: accept its licence at {page}, then log in with hf auth login, or set HF_TOKEN to a "
            f"token from https://huggingface.co/settings/tokens"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"there is no folder {repo!r}, and no such model on the hub; check the name, or, if it is private, log in "
            "with hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision {revision!r}; {page}/commits/main lists its commits") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"there is no folder {repo!r}, the hub cannot be reached, and no earlier run has downloaded the model: go "
            "online (without HF_HUB_OFFLINE) and try again, or give a folder"
        ) from error
    except UserError:
        raise
    except Exception as error:  # the other errors of the client and of HTTP share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{repo} could not be downloaded from the hub: {reason}; the same command tries again and continues"
        ) from error
