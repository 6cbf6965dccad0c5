import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Mistral3Config,
)
from transformers.utils import logging

from crosstune.errors import UserError
from crosstune.models.geometry import geometry_of
from crosstune.models.loading.load import load
from crosstune.models.loading.log_noise import without_notices

IDS = torch.tensor([[1, 40, 41, 42, 7, 9, 11, 13, 15, 17, 19, 21]])


def load_cpu(folder, **options):
    return load(str(folder), device="cpu", dtype="float32", **options)


def rewrite(file, change):
    """Save a safetensors file again with its tensors changed."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_every_family_loads_frozen_and_whole(family, save_tiny):
    folder = save_tiny(family)
    loaded = load_cpu(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    assert loaded.geometry == geometry_of(reference.config)
    assert loaded.name == str(folder)
    assert loaded.model.config._attn_implementation == "crosstune"
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, reference(IDS).logits)
    assert loaded.tokenizer.decode(loaded.tokenizer("जल 水 maji").input_ids) == "जल 水 maji"


def test_dtype_is_the_one_asked_for(save_tiny):
    loaded = load(str(save_tiny()), device="cpu", dtype="bf16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_sharded_weights(save_tiny):
    folder = save_tiny("llama", max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    whole = load_cpu(save_tiny("llama", "whole"))
    with torch.no_grad():
        assert torch.equal(load_cpu(folder).model(IDS).logits, whole.model(IDS).logits)


@pytest.mark.parametrize(("kind", "text"), [(Gemma3Config, "gemma3"), (Mistral3Config, "mistral")])
def test_multimodal_model_gives_its_text_decoder(kind, text, save_tiny, tiny_config):
    folder = save_tiny(text)  # for its tokenizer
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 28,
        "patch_size": 14,
    }
    if kind is Mistral3Config:
        vision |= {"model_type": "pixtral", "head_dim": 8}
    config = kind(text_config=tiny_config(text), vision_config=vision)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(folder)
    loaded = load_cpu(folder)
    assert sum(p.numel() for p in loaded.model.parameters()) == loaded.geometry.parameters
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, whole(IDS).logits)


def test_fingerprint_follows_the_content_and_not_the_place(save_tiny, tmp_path):
    folder = save_tiny()
    first = load_cpu(folder).revision
    assert len(first) == 16
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert load_cpu(copy).revision == first
    rewrite(copy / "model.safetensors", lambda t: t["model.layers.0.self_attn.v_proj.weight"].add_(0.01))
    assert load_cpu(copy).revision != first
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_cpu(folder).revision != first


def test_loading_is_silent_and_leaves_settings_alone(save_tiny, capfd):
    folder = save_tiny()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_cpu(folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    with pytest.raises(ZeroDivisionError), without_notices():
        _ = 1 / 0
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def only_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def not_safetensors(folder):
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3)


def tensor_missing(folder):
    rewrite(folder / "model.safetensors", lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))


def wrong_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 60}))


def config_not_json(folder):
    (folder / "config.json").write_text('{\n "model_type": "llama",\n oops}')


def config_invalid(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": "many"}))


def unknown_architecture(folder):
    (folder / "config.json").write_text('{"model_type": "nosuch"}')


def own_code(folder):
    (folder / "evil.py").write_text("raise SystemExit('code from a model folder was run')")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))


def no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')


def foreign_tokenizer(folder):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {f"extra{i}": 1000 + i for i in range(200)}
    file.write_text(json.dumps(content))


def index_leaves_the_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (only_pickle, "pickle"),
        (no_weights, r"no model\.safetensors"),
        (cut_short, r"bytes where its header says .* fetch it again"),
        (not_safetensors, "not a safetensors file"),
        (tensor_missing, r"1 weights are missing .*layers\.1\.mlp\.up_proj"),
        (wrong_shape, "cannot be loaded"),
        (config_not_json, r"config\.json:3: not valid JSON"),
        (config_invalid, r"config\.json"),
        (unknown_architecture, "nosuch"),
        (own_code, "without running code from the repository"),
        (no_tokenizer, "no usable tokenizer"),
        (damaged_tokenizer, "no usable tokenizer"),
        (index_leaves_the_folder, "not in the folder"),
    ],
)
def test_damaged_folders_are_one_line(damage, message, save_tiny):
    folder = save_tiny()
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_cpu(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_tokenizer_may_have_more_tokens_than_the_embedding_has_rows(save_tiny):
    """As Gemma 3 270M's: only a text that uses one of them is refused."""
    folder = save_tiny()
    foreign_tokenizer(folder)
    loaded = load_cpu(folder)
    rows = loaded.geometry.vocabulary
    assert any(f"the embedding {rows:,} rows" in remark for remark in loaded.remarks)
    loaded.tokenizer.add_tokens(["<image>"])
    beyond = loaded.tokenizer.convert_tokens_to_ids("<image>")
    assert beyond >= rows
    assert max(loaded.tokens.prompts(["the tin"])[0]) < rows
    for encode in (lambda text: loaded.tokens.prompts(["the tin", text]), loaded.tokens.answer):
        with pytest.raises(UserError, match=rf"token {beyond} \('<image>'\) is beyond .* in 'a <image>'"):
            encode("a <image>")


def test_weights_that_the_config_does_not_name_are_said(save_tiny):
    folder = save_tiny()
    assert load_cpu(folder).remarks == []
    rewrite(folder / "model.safetensors", lambda t: t.update({"model.layers.9.extra.weight": torch.ones(2)}))
    (remark,) = load_cpu(folder).remarks
    assert remark.startswith("1 weights in its files are used by nothing")
    assert "model.layers.9.extra.weight" in remark


def test_not_a_model_folder(tmp_path):
    with pytest.raises(UserError, match=f"not a model folder: no config.json in {tmp_path}"):
        load_cpu(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo:gema-3-270m", 'did you mean "demo:gemma-3-270m"'),
        ("llama-3.1-8b", "give its hub id, meta-llama/Llama-3.1-8B"),
        ("/nowhere/at/all", "no such folder"),
        ("smollm", "did you mean"),
        (__file__, "it is a file"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(UserError, match=message):
        load_cpu(name)


def test_a_folder_has_no_revisions(save_tiny):
    with pytest.raises(UserError, match="hub ids only"):
        load_cpu(save_tiny(), revision="main")


def test_device_that_is_not_there(save_tiny):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match='device "cuda"'):
        load(str(save_tiny()), device="cuda")
