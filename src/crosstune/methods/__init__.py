"""Methods by name. A new one is a file here and a line in this dict.

May import `models`, `store`, `languages`, `config`.
"""

from typing import Any

from crosstune.methods.adapters.bottleneck import Bottleneck
from crosstune.methods.adapters.compacter import Compacter
from crosstune.methods.adapters.ia3 import Ia3
from crosstune.methods.adapters.lora import Lora
from crosstune.methods.adapters.peft_tuner import PeftTuner
from crosstune.methods.base import Method
from crosstune.methods.few_shot import FewShot
from crosstune.methods.full import Full
from crosstune.methods.head import Probe
from crosstune.methods.none import NoTuning
from crosstune.methods.prompts.llama_adapter import LlamaAdapter
from crosstune.methods.prompts.prefix import Prefix
from crosstune.methods.prompts.soft_prompt import SoftPrompt
from crosstune.methods.sparse import Sparse
from crosstune.methods.stack import Stack, Stacked
from crosstune.methods.staged.adamergex import AdaMergeX
from crosstune.methods.staged.lt_sft import LtSft
from crosstune.methods.staged.mad_x import MadX
from crosstune.methods.trained.adapter import Adapter

METHODS: dict[str, type[Method[Any]]] = {
    "none": NoTuning,
    "few-shot": FewShot,
    "soft-prompt": SoftPrompt,
    "prefix": Prefix,
    "llama-adapter": LlamaAdapter,
    "lora": Lora,
    "bottleneck": Bottleneck,
    "compacter": Compacter,
    "ia3": Ia3,
    "peft": PeftTuner,
    "mad-x": MadX,
    "adamergex": AdaMergeX,
    "full": Full,
    "sparse": Sparse,
    "lt-sft": LtSft,
    "stack": Stack,
    "probe": Probe,
    "adapter": Adapter,
}
Stacked.known |= METHODS
Adapter.known |= METHODS
