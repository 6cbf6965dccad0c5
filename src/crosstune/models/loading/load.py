"""Load a model by hub id, folder or ``demo:`` name: frozen, hooked, pinned."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PretrainedConfig

from crosstune.errors import UserError, did_you_mean
from crosstune.files import user_path
from crosstune.models.attention.apart import TOGETHER
from crosstune.models.attention.families import implementation, through_hook
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.models.family import auto_class, text_config, without_pooler
from crosstune.models.geometry import as_loaded
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading import demo, hub
from crosstune.models.loading.config import foreseen, one_line, read_config
from crosstune.models.loading.device import DeviceMap, choose_device, choose_dtype, together
from crosstune.models.loading.fingerprint import SETTINGS, fingerprint, read_json, weight_files
from crosstune.models.loading.known import KNOWN, geometry_in, hub_id_of
from crosstune.models.loading.log_noise import without_notices
from crosstune.models.loading.quantize import keep_gradients, needs_package, quantization

# Where the decoder sits in the weight files of a multimodal model, and where it does alone.
_DECODER_KEYS = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    quantize: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> LanguageModel:
    """Load a model for all the runs of a study.

    Weights come from safetensors only and code from a repository is never run. Of a multimodal model only
    the text decoder is loaded. Every parameter is frozen.

    Args:
        name: ``demo:...``, a folder written by ``save_pretrained``, or a hub id such as
            ``meta-llama/Llama-3.2-1B``.
        device: See `choose_device`.
        dtype: See `choose_dtype`.
        revision: Branch, tag or commit; for hub ids only.
        quantize: "4bit" or "8bit" for the weights of linear layers; see `crosstune.models.loading.quantize`.
        device_map: How to spread the model over all GPUs: "auto", "balanced" or "sequential"
            (https://huggingface.co/docs/accelerate), or the device of each module by name.

    Returns:
        The model. Its ``revision`` is the commit hash for a hub id, and a fingerprint of the files otherwise.

    Raises:
        UserError: Anything a person can mend: a wrong name, no access, damaged files, too little memory.
    """
    where = choose_device(device)
    number = choose_dtype(dtype, where)
    placed = _places(where, device, device_map)
    bits = None if quantize is None else quantization(quantize, number)
    folder, pinned = _locate(name, revision)
    config = read_config(folder, name)
    for file in SETTINGS:
        if os.path.lexists(folder / file):
            read_json(folder / file)
    with foreseen(f"{name}: its weights cannot be read", "fetch them again"):
        _check_kinds(weight_files(folder), config)
    geometry = geometry_in(folder, name)
    model, unused = _model(
        folder, name, config, size=geometry.parameters, device=where, dtype=number, bits=bits, placed=placed
    )
    with foreseen(f"{name}: no usable tokenizer in {folder}", "fetch it again"), without_notices():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with foreseen(f"{name}: cannot be used as it was loaded from {folder}", "fetch it again or report it"):
        _check_finite(model, name)
        kind = EncoderDecoder if geometry.encoder_layers else LanguageModel
        if geometry.encoder_layers and bits is None:
            geometry = as_loaded(geometry, model)
        loaded = kind(model=model, tokenizer=tokenizer, name=name, revision=pinned, geometry=geometry)
        loaded.remarks += unused
        if geometry.apart:
            TOGETHER.tell(geometry.apart, lambda line: loaded.remarks.append(line.strip()))
        loaded.check()
    return loaded


def _check_kinds(files: Sequence[Path], config: PretrainedConfig) -> None:
    """Refuse weights kept in 8 bits that nothing says the scale of: they would be taken as they stand."""
    if getattr(config, "quantization_config", None) is not None:
        return
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - it is no mapping
                kind = tensors.get_slice(key).get_dtype()
                if key.endswith(".weight") and kind not in ("F64", "F32", "F16", "BF16"):
                    raise UserError(
                        f"{file}: {key} is kept as {kind}, and config.json has no quantization_config that "
                        "says what its numbers stand for; save the model in bfloat16"
                    )


def _check_finite(model: Any, name: str) -> None:
    """Refuse weights that are no numbers: one NaN makes every answer that meets it none."""
    for key, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        if not all(bound.isfinite() for bound in weight.aminmax()):
            raise UserError(f"{name}: {key} holds NaN or infinite numbers; fetch the model again")


def _locate(name: str, revision: str | None) -> tuple[Path, str]:
    """Folder of a model, and what pins its content."""
    folder = user_path(name)
    if revision is not None and (folder.is_dir() or not hub.is_hub_id(name)):
        raise UserError(f"{name}: a revision can be given for hub ids only; remove it")
    if name.startswith(demo.PREFIX):
        prepared = demo.prepare(name)
        return prepared, demo.revision(prepared)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"not a model folder: no config.json in {folder}")
        return folder, fingerprint(folder)
    if hub.is_hub_id(name):
        return hub.fetch(name, revision)
    raise UserError(f'no model "{name}": {_instead(name, folder)}')


def _instead(name: str, folder: Path) -> str:
    """What to write instead of a name that is nothing."""
    if hub_id := hub_id_of(name):
        return f"to load it, give its hub id, {hub_id}"
    if folder.exists():
        return "it is a file; give the folder that holds config.json"
    if len(folder.parts) > 1:
        return "no such folder"
    near = did_you_mean(name, [*demo.DEMOS, *KNOWN])
    return f"give a folder, a hub id such as meta-llama/Llama-3.2-1B, or a demo model{near}"


def _model(
    folder: Path,
    name: str,
    config: PretrainedConfig,
    *,
    size: int,
    device: torch.device,
    dtype: torch.dtype,
    bits: Any,
    placed: str | dict[str, Any] | None,
) -> tuple[Any, list[str]]:
    """The frozen model, of ``size`` parameters, on its device or devices; and what is to be said of it."""
    whole = placed is None
    if whole and (device.type == "cuda" or bits is not None):
        placed = {"": device}
    text = text_config(config)
    nested: dict[str, Any] = {} if text is config else {"key_mapping": _DECODER_KEYS}
    try:
        with without_notices():
            model, report = auto_class(text).from_pretrained(
                folder,
                config=text,
                dtype=dtype,
                device_map=placed,
                quantization_config=bits,
                attn_implementation=implementation(text),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **nested,
            )
            if whole and bits is None:
                model.to(device)
    except torch.OutOfMemoryError as error:
        gigabytes = size * dtype.itemsize / 2**30
        raise UserError(
            f"{name}: {gigabytes:.1f} GiB of weights do not fit on {device}; free its memory, choose another "
            "device, a smaller model, or dtype bfloat16"
        ) from error
    except Exception as error:  # transformers and what it calls have classes of their own
        raise UserError(f"{name}: cannot be loaded from {folder}: {one_line(error)}") from error
    if (
        not whole
        and device.type == "cuda"
        and {"cpu", "disk"} & {str(x) for x in model.hf_device_map.values()}
    ):
        gigabytes = size * dtype.itemsize / 2**30
        raise UserError(
            f"{name}: {gigabytes:.1f} GiB of weights do not fit on the GPUs there are; use more of them, "
            "quantize: 4bit, or a smaller model"
        )
    # transformers fills what a file lacks with random numbers and only logs it.
    model = without_pooler(model)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"{name}: {len(missing)} weights are missing from the files in {folder} (first: {missing[0]}); "
            "they do not belong to this config.json"
        )
    # Beside the decoder of a multimodal model lie the weights of its other parts.
    unused = sorted(report["unexpected_keys"]) if text is config else []
    remarks = (
        [f"{len(unused)} weights in its files are used by nothing that config.json names, first {unused[0]}"]
        if unused
        else []
    )
    through_hook(model)
    if bits is not None:
        keep_gradients(model)
    model.requires_grad_(False)
    return model.eval(), remarks


def _places(where: torch.device, wish: str, device_map: Any) -> Any:
    """The device map, if it can be had here."""
    if device_map is None:
        return None
    if together():
        raise UserError("device_map spreads a model over GPUs, of which each of several processes has one")
    needs_package("accelerate", "device_map", "spread")
    if isinstance(device_map, str):
        if device_map not in get_args(DeviceMap):
            raise UserError(f'device_map: "{device_map}"{did_you_mean(device_map, get_args(DeviceMap))}')
        if where.type != "cuda":
            raise UserError(
                f"device_map: {device_map} spreads a model over GPUs, and device is {where}; remove it"
            )
        if ":" in wish:
            raise UserError(f"device_map: {device_map} uses all GPUs; write device: cuda in place of {wish}")
    return device_map
