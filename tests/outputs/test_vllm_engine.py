"""vLLM for written answers: what it is asked, by a stand-in of its documented interface; and what is refused.

The stand-in answers with transformers and PEFT from the folders and tensors that it is handed.
"""

import sys
from types import ModuleType, SimpleNamespace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.models.loading.load import load
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs import fits
from crosstune.outputs.decoding import vllm_engine
from crosstune.outputs.fits import VLLM, check_fits
from crosstune.outputs.generation import Generation
from crosstune.outputs.settings import EvaluateSettings
from saved_model import save_model
from tiny_models import make_method, shake

TASK = SimpleNamespace(max_answer_tokens=12, stop=("\n", " a"), source_language="en")
PROMPTS = ["A river", "b", "The tower stood", "where is it", "one two three"]
ASKED = []


class LLM:
    def __init__(self, model, dtype, max_model_len, revision=None, enable_prompt_embeds=False, **lora):
        ASKED.append({"model": model, "embeds": enable_prompt_embeds, **lora})
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.most = max_model_len

    def generate(self, prompts, sampling_params, lora_request=None, use_tqdm=True):
        model = self.model
        if lora_request is not None:
            model = peft.PeftModel.from_pretrained(model, lora_request.path)
        return [SimpleNamespace(outputs=[self.one(model, prompt, sampling_params)]) for prompt in prompts]

    def one(self, model, prompt, how):
        if "prompt_embeds" in prompt:
            given = {"inputs_embeds": prompt["prompt_embeds"][None]}
            assert given["inputs_embeds"].shape[1] + how.max_tokens <= self.most
        else:
            given = {"input_ids": torch.tensor([prompt["prompt_token_ids"]])}
        ids = model.generate(**given, max_new_tokens=how.max_tokens, do_sample=False, pad_token_id=0)[0]
        ids = ids[given["input_ids"].shape[1] :] if "input_ids" in given else ids
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        ends = [at for stop in how.stop if (at := text.find(stop)) >= 0]
        return SimpleNamespace(text=text[: min(ends)] if ends else text)


@pytest.fixture
def vllm(monkeypatch):
    library, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
    library.__version__, library.LLM = "0.11.0", LLM
    library.SamplingParams = lambda **how: SimpleNamespace(**how) if how["temperature"] == 0 else None
    request.LoRARequest = lambda name, number, path: SimpleNamespace(path=path)
    for name, module in (("vllm", library), ("vllm.lora", ModuleType("x")), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)
    ASKED.clear()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def written(lm, engine, passes=None):
    output = Generation(lm, EvaluateSettings(engine=engine))
    examples = [SimpleNamespace(prompt=prompt, language="en") for prompt in PROMPTS]
    return output.answers(TASK, examples, **({} if passes is None else {"passes": passes})).texts


@pytest.mark.parametrize("case", ["none", "few-shot", "soft-prompt", "lora", "full"])
def test_answers_are_ours(vllm, saved, case):
    lm = load(str(saved), device="cpu", dtype="float32")
    bare = written(lm, "crosstune")
    method, passes = make_method(case), TokenLimit(8192)
    method.attach(lm, seed=0)
    if method.trains:
        shake(method, scale=1.0)
    with method.evaluating():
        ours = written(lm, "crosstune")
        assert written(lm, "vllm", passes) == ours
    assert (ours == bare) == (not method.trains)
    assert passes.engine == {"name": "vllm", "version": "0.11.0", "compared": 5, "same": 5}
    (asked,) = ASKED
    assert (asked["model"] == str(saved)) == (case != "full")
    assert asked["embeds"] == (case == "soft-prompt")
    assert asked.get("max_lora_rank") == (8 if case == "lora" else None)


def test_a_stop_string_in_front_of_all_else_or_in_a_thought(vllm):
    """Where vLLM stops and crosstune goes on, the prompt is asked again without stop strings."""
    asked = []

    def write(prompts, stop):
        asked.append((list(prompts), stop))
        whole = {1: "\n yes\nno", 2: "x\n", 3: "<think>\nIs it?\n</think>\nyes\n"}
        return [whole[i].partition("\n")[0] if stop else whole[i] for ((i),) in prompts]

    assert vllm_engine._cut(write, [[1], [2], [3]], ("\n",)) == ["yes", "x", "yes"]
    assert asked == [([[1], [2], [3]], ("\n",)), ([[1], [3]], ())]


def test_answers_that_differ_are_counted(vllm, saved, monkeypatch):
    lm, passes = load(str(saved), device="cpu", dtype="float32"), TokenLimit(8192)
    monkeypatch.setattr(vllm_engine, "_cut", lambda write, prompts, stop: ["else"] * len(prompts))
    assert written(lm, "vllm", passes) == ["else"] * 5
    assert passes.engine["same"] == 0


def test_what_is_refused(saved, monkeypatch):
    lm, settings = load(str(saved), device="cpu", dtype="float32"), EvaluateSettings(engine="vllm")

    def refusal(method="none", kind="generation", settings=settings):
        with pytest.raises(UserError) as error:
            check_fits("mgsm", kind, METHODS[method](METHODS[method].Config()), lm.geometry, settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    monkeypatch.setattr(fits, "find_spec", lambda name: None)
    for method in VLLM:
        assert "the library is not installed here; pip install vllm" in refusal(method)
    monkeypatch.setattr(fits, "find_spec", lambda name: name)
    check_fits("mgsm", "generation", make_method("none"), lm.geometry, settings)
    for method in ("prefix", "llama-adapter", "bottleneck", "ia3"):
        assert refusal(method).startswith(f"{method}: evaluate.engine: vllm runs none, few-shot, full, lora")
    assert "a causal model writes" in refusal(kind="choice")
    assert "take engine or beams out" in refusal(settings=EvaluateSettings(engine="vllm", beams=2))
    with pytest.raises(UserError, match=r"engine: vllm: No module named 'vllm'; take engine out"):
        written(lm, "vllm")


def test_runs_without_it_keep_their_settings():
    assert "engine" not in EvaluateSettings().model_dump()
    assert EvaluateSettings(engine="vllm").model_dump()["engine"] == "vllm"
