"""vLLM for written answers: the library itself where it is installed; else what it is asked, and refusals.

Where it is not installed a stand-in answers with transformers and PEFT from the folders and tensors that it
is handed. That shows what is handed over, and nothing of vLLM.
"""

import multiprocessing
import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.models.loading.load import load
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs import fits
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.decoding import vllm_engine
from crosstune.outputs.decoding.ends import texts
from crosstune.outputs.fits import VLLM, check_fits
from crosstune.outputs.generation import Generation
from crosstune.outputs.settings import VLLM_RANK, EvaluateSettings
from saved_model import save_model
from tiny_models import make_method, shake

TASK = SimpleNamespace(max_answer_tokens=12, stop=("\n", " a"), source_language="en")
PROMPTS = ["A river", "b", "The tower stood", "wo es größer ist", "川の名前は", "one two three" * 5]
CASES = ["none", "few-shot", "lora", "lora-all", "soft-prompt", "full"]


class Process:
    """What an engine is asked with, and whether it was ended."""

    def __init__(self, **options):
        self.options, self.ended, self.asked = options, 0, 0

    def shutdown(self):
        self.ended += 1


def main_script():
    """What new processes would run again: the module's name and file."""
    main = sys.modules["__main__"]
    return main.__spec__, getattr(main, "__file__", None)


class LLM:
    started: ClassVar[list[Process]] = []

    def __init__(self, model, dtype, max_model_len, **options):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        state = {"visible": visible, "hidden": main_script() == (None, None)}
        process = Process(model=model, length=max_model_len, **state, **options)
        self.llm_engine = SimpleNamespace(engine_core=process)
        self.started.append(process)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.most = max_model_len

    def generate(self, prompts, sampling_params, lora_request=None, use_tqdm=True):
        model = self.model
        self.llm_engine.engine_core.asked += 1
        if lora_request is not None:
            model = peft.PeftModel.from_pretrained(model, lora_request.path)
        done = [self.one(model, prompt, sampling_params) for prompt in prompts]
        if lora_request is not None:
            model.unload()
        return [SimpleNamespace(outputs=[one]) for one in done]

    def one(self, model, prompt, how):
        if "prompt_embeds" in prompt:
            given = {"inputs_embeds": prompt["prompt_embeds"][None]}
        else:
            given = {"input_ids": torch.tensor([prompt["prompt_token_ids"]])}
        front = next(iter(given.values())).shape[1]
        assert front + how.max_tokens <= self.most
        ids = model.generate(**given, max_new_tokens=how.max_tokens, do_sample=False, pad_token_id=0)[0]
        ids = (ids[front:] if "input_ids" in given else ids).tolist()
        for end in range(1, len(ids) + 1):
            text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
            if ids[end - 1] in how.stop_token_ids or any(stop in text for stop in how.stop):
                return SimpleNamespace(token_ids=ids[:end])
        return SimpleNamespace(token_ids=ids)


@pytest.fixture
def vllm(monkeypatch):
    library, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
    library.__version__, library.LLM = "0.32.0", LLM
    library.SamplingParams = lambda **how: SimpleNamespace(**how) if how["temperature"] == 0 else None
    request.LoRARequest = lambda name, number, path: SimpleNamespace(path=path)
    for name, module in (("vllm", library), ("vllm.lora", ModuleType("x")), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)
    LLM.started.clear()
    return LLM.started


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Heads of 32, as vLLM's kernels for CPUs have none of 16."""
    return save_model(tmp_path_factory.mktemp("model"), head_dim=32, max_position_embeddings=256)


def written(lm, engine, passes=None):
    output = Generation(lm, EvaluateSettings(engine=engine))
    examples = [SimpleNamespace(prompt=prompt, language="en") for prompt in PROMPTS]
    return output.answers(TASK, examples, **({} if passes is None else {"passes": passes})).texts


def compared(lm, case):
    """Answers of a method both ways, and what the record says of them."""
    method, passes = make_method(case), TokenLimit(8192)
    method.attach(lm, seed=0)
    if method.trains:
        shake(method, scale=1.0)
    with method.evaluating():
        ours = written(lm, "crosstune")
        theirs = written(lm, "vllm", passes)
    method.detach()
    assert passes.engine.pop("version") == sys.modules["vllm"].__version__
    return ours, theirs, passes


@pytest.mark.parametrize("case", CASES)
def test_what_is_handed_over_gives_our_answers(vllm, saved, case, monkeypatch):
    for name, value in {"__spec__": "a module", "__file__": "a file"}.items():
        monkeypatch.setattr(sys.modules["__main__"], name, value, raising=False)
    lm = load(str(saved), device="cpu", dtype="float32")
    bare = written(lm, "crosstune")
    ours, theirs, passes = compared(lm, case)
    assert ours == theirs
    assert (ours == bare) == (case in ("none", "few-shot"))
    assert passes.engine == {"name": "vllm", "compared": 6, "same": 6}
    (process,) = vllm
    options = process.options
    assert (options["model"] == str(saved)) == (case != "full")
    assert options.get("enable_prompt_embeds", False) == (case == "soft-prompt")
    assert options.get("max_lora_rank") == (8 if "lora" in case else None)
    assert options["length"] == 256
    assert options["kv_cache_memory_bytes"] == 16_384 * 2 * 2 * 2 * 32 * 4
    assert options["hidden"]
    assert main_script() == ("a module", "a file")
    # As crosstune counts: prompts and what was written.
    before = TokenLimit(8192)
    written(lm, "crosstune", before)
    assert passes.tokens == before.tokens or case not in ("none", "few-shot")


def test_one_engine_until_its_memory_is_needed(vllm, saved):
    """Languages, tasks and methods on the same weights share one; other weights and scoring end it."""
    lm = load(str(saved), device="cpu", dtype="float32")
    for case in ("none", "few-shot", "none"):
        compared(lm, case)
    assert (len(vllm), vllm[0].ended) == (1, 0)
    for case in ("lora", "lora"):
        compared(lm, case)
    assert [process.ended for process in vllm] == [1, 0]
    compared(lm, "full")
    compared(lm, "full")  # other weights
    assert [process.ended for process in vllm] == [1, 1, 1, 0]
    score_choices(lm, [ChoiceItem((1, 70), ((71,), (72,)))], EvaluateSettings())
    assert (lm.engine, vllm[-1].ended) == (None, 1)
    compared(lm, "none")
    del lm
    assert vllm[-1].ended == 1


def test_a_stop_string_in_front_of_all_else_or_in_a_thought(saved):
    """Where vLLM stops and crosstune goes on, the prompt is asked again without stop strings."""
    lm, asked = load(str(saved), device="cpu", dtype="float32"), []

    def write(prompts, stop):
        asked.append((list(prompts), stop))
        whole = {1: "\n yes\nno", 2: "x\n", 3: "<think>\nIs it?\n</think>\nyes\n"}
        said = ["".join(whole[i].partition("\n")[:2]) if stop else whole[i] for ((i),) in prompts]
        return [lm.tokenizer(text, add_special_tokens=False).input_ids for text in said]

    ids = vllm_engine._whole(lm, write, [[1], [2], [3]], ("\n",))
    assert texts(lm, ids, ("\n",)) == ["yes", "x", "yes"]
    assert asked == [([[1], [2], [3]], ("\n",)), ([[1], [3]], ())]


def test_answers_that_differ_are_counted_and_failures_told_in_a_line(vllm, saved, monkeypatch):
    lm, passes = load(str(saved), device="cpu", dtype="float32"), TokenLimit(8192)
    monkeypatch.setattr(LLM, "one", lambda *_: SimpleNamespace(token_ids=[70, 2]))
    assert set(written(lm, "vllm", passes)) == {lm.tokenizer.decode([70])}
    assert passes.engine["same"] == 0

    class Wrong(Exception):  # noqa: N818 - as pydantic's, whose first line only counts
        def errors(self):
            return [{"msg": "no such architecture\nmore"}]

    def fail(*_):
        raise Wrong("1 validation error")

    monkeypatch.setattr(LLM, "one", fail)
    with pytest.raises(UserError, match=r"^evaluate.engine: vllm: no such architecture; take engine out$"):
        written(lm, "vllm")
    assert (lm.engine, vllm[0].ended) == (None, 1)
    with pytest.raises(UserError, match="an empty prompt"):
        vllm_engine.answers(lm, [[1], []], 4, (), lambda _: [])


def test_a_second_gpu_is_the_engines_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with vllm_engine._started_alone(torch.device("cuda", 1)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with vllm_engine._started_alone(torch.device("cuda", 1)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,7"


# A script with no `if __name__ == "__main__"`, which every new process would run once more.
SCRIPT = """
print("script")
from crosstune.models.loading.load import load
from crosstune.outputs.decoding.vllm_engine import answers
lm = load({model!r}, device="cpu", dtype="float32")
print(answers(lm, [[1, 70]], 4, (), lambda _: ["?"])[1]["compared"], "answered")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_itself(saved, tmp_path):
    """Every method both ways, an engine kept from one to the next, a failure, and no process left."""
    lm = load(str(saved), device="cpu", dtype="float32")
    bare, before = written(lm, "crosstune"), None
    for case in CASES:
        ours, theirs, _ = compared(lm, case)
        assert ours == theirs, case
        assert (ours == bare) == (case in ("none", "few-shot"))
        assert (lm.engine is before) == (case in ("few-shot", "lora-all"))
        before = lm.engine
    with pytest.raises(
        UserError, match=r"^evaluate.engine: vllm: [^\n]*(longer|greater)[^\n]*; take engine out$"
    ):
        vllm_engine.answers(lm, [[1] * 300], 4, (), lambda _: [])
    assert lm.engine is None
    for child in multiprocessing.active_children():  # killed ones take a moment
        if "EngineCore" in child.name:
            child.join(60)
            assert not child.is_alive()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(model=str(saved)), encoding="utf-8")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == ["script", "1 answered"]
    assert ran.stdout.count("script") == 1


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
    assert vllm_engine.RANKS[-1] == VLLM_RANK
    big = METHODS["lora"](METHODS["lora"].Config(rank=513))
    with pytest.raises(UserError, match=r"lora: evaluate.engine: vllm takes ranks up to 512; take it out"):
        check_fits("mgsm", "generation", big, lm.geometry, settings)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"^evaluate.engine: vllm: [^\n]*vllm[^\n]*; take engine out$"):
        written(lm, "vllm")
    monkeypatch.setattr(lm.model, "is_quantized", True, raising=False)
    with pytest.raises(UserError, match="take engine or quantize out"):
        Generation(lm, settings).check(["en"])


def test_runs_without_it_keep_their_settings():
    assert "engine" not in EvaluateSettings().model_dump()
    assert EvaluateSettings(engine="vllm").model_dump()["engine"] == "vllm"
