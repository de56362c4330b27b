"""What a pipeline of diffusers makes of a prompt, told apart by the names in its own code."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.condition import Cond, Prompt
from sfumato.errors import WeightsError

DOORS = {
    "prompt_embeds": "tokens",
    "prompt_attention_mask": "mask",
    "prompt_embeds_mask": "mask",
    "pooled_prompt_embeds": "vector",
}
"""What pipelines call what goes to a door."""
UNUSED = ("text_ids",)
"""What they return besides, and is made where the network is called."""
NEGATIVE = "negative_"


def returned(function: Callable[..., Any]) -> list[str]:
    """The names of what ``function`` returns, in order, read from its source; "" for what has none.

    ``x.to(dtype)`` is x, and ``x if wanted else None`` too. ValueError if the source cannot be read, or does not say
    one thing: two statements that return different names.
    """
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise ValueError("its source cannot be read") from error
    assert isinstance(node, ast.FunctionDef)
    found = [_names(one.value) for one in _own(node) if isinstance(one, ast.Return) and one.value is not None]
    if not found or any(names != found[0] for names in found):
        raise ValueError("it returns different things in different cases")
    return found[0]


def _own(node: ast.AST) -> list[ast.AST]:
    """All below ``node`` but what lies in functions of its own."""
    below = [
        child
        for child in ast.iter_child_nodes(node)
        if not isinstance(child, (ast.FunctionDef, ast.Lambda, ast.ClassDef))
    ]
    return below + [deeper for child in below for deeper in _own(child)]


def _names(value: ast.expr) -> list[str]:
    return [_name(one) for one in (value.elts if isinstance(value, ast.Tuple) else [value])]


def _name(value: ast.expr) -> str:
    if isinstance(value, ast.IfExp):
        return _name(value.body)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        return _name(value.func.value)
    return value.id if isinstance(value, ast.Name) else ""


def asked(pipe: Any, prompt: Prompt, **more: Any) -> dict[str, Any]:
    """What the pipeline's ``encode_prompt`` makes of ``prompt``, by name; of a negative one without the prefix.

    Arguments that its call has too get that one's defaults, which may differ; a negative prompt goes in at its own
    argument where there is one, and one that nobody gave as the call has it. WeightsError where the names cannot be
    told.
    """
    take, call = (inspect.signature(f).parameters for f in (pipe.encode_prompt, type(pipe).__call__))
    usual = {
        name: one.default
        for name, one in call.items()
        if name in take and one.default is not inspect.Parameter.empty
    }
    apart = prompt.negative and "negative_prompt" in take
    absent = usual.get("negative_prompt") if "negative_prompt" in usual else ""
    usual |= {
        "prompt": "" if apart else prompt.text,
        "negative_prompt": (absent if prompt.absent else prompt.text) if apart else None,
        "do_classifier_free_guidance": apart,
        "num_images_per_prompt": 1,
        "device": pipe._execution_device,
        "prompt_2": None,
        "prompt_3": None,
        **more,
    }
    found = pipe.encode_prompt(**{name: value for name, value in usual.items() if name in take})
    found = found if isinstance(found, tuple) else (found,)
    try:
        names = returned(type(pipe).encode_prompt)
    except ValueError as error:
        raise WeightsError(
            f"what {type(pipe).__name__} makes of a prompt is not understood: {error}"
        ) from error
    if len(names) != len(found) or not all(names):
        raise WeightsError(
            f"what {type(pipe).__name__} makes of a prompt is not understood: it returns {len(found)} things, and its "
            f"source names {', '.join(filter(None, names)) or 'none'}"
        )
    prefix = NEGATIVE if apart else ""
    named = dict(zip(names, found, strict=True))
    return {
        name.removeprefix(prefix): value
        for name, value in named.items()
        if name.startswith(NEGATIVE) == apart
    }


def usual(pipe: Any, prompt: Prompt) -> Cond:
    """States, their mask and the pooled vector, by their usual names.

    States of several layers, (B, L, layers, D), lie behind one another. WeightsError for names that are not known.
    """
    found = asked(pipe, prompt)
    odd = [
        name
        for name, value in found.items()
        if name not in DOORS and name not in UNUSED and value is not None
    ]
    if odd:
        raise WeightsError(
            f"{type(pipe).__name__} makes {', '.join(odd)} of a prompt, which is not known where to give"
        )
    doors = {DOORS[name]: value for name, value in found.items() if name in DOORS and value is not None}
    if "tokens" not in doors:
        raise WeightsError(f"{type(pipe).__name__} makes no states of a prompt that are known here")
    return _cond(doors["tokens"].flatten(2), doors.get("mask"), doors.get("vector"))


def listed(pipe: Any, prompt: Prompt) -> Cond:
    """A list of states, one for each prompt (ERNIE-Image)."""
    (found,) = asked(pipe, prompt).values()
    return _cond(found[0][None])


def hunyuan(pipe: Any, prompt: Prompt) -> Cond:
    """HunyuanDiT: the states of its BERT and of its T5, behind one another, columns that one lacks zero."""
    pair = [asked(pipe, prompt, text_encoder_index=index) for index in (0, 1)]
    states = [one["prompt_embeds"] for one in pair]
    mask = torch.cat([one["prompt_attention_mask"] for one in pair], 1)
    return _cond(torch.cat(_as_wide(states), 1), mask)


def kandinsky(pipe: Any, prompt: Prompt) -> Cond:
    """Kandinsky 5: the states of Qwen and the vector of CLIP."""
    found = asked(pipe, prompt)
    return _cond(found["prompt_embeds_qwen"], vector=found["prompt_embeds_clip"])


def hidream(pipe: Any, prompt: Prompt) -> Cond:
    """HiDream: T5's states and those of each of Llama's layers, behind one another, and both CLIPs' pooled vectors."""
    found = asked(pipe, prompt, prompt_4=None)
    states = [found["prompt_embeds_t5"], *found["prompt_embeds_llama3"]]
    return _cond(torch.cat(_as_wide(states), 1), vector=found["pooled_prompt_embeds"])


def _as_wide(states: list[Tensor]) -> list[Tensor]:
    """All as wide as the widest."""
    width = max(one.shape[-1] for one in states)
    return [F.pad(one, (0, width - one.shape[-1])) for one in states]


def _cond(tokens: Tensor, mask: Tensor | None = None, vector: Tensor | None = None) -> Cond:
    return Cond(tokens=tokens, mask=None if mask is None else mask.bool(), vector=vector)


READ: Mapping[str, Callable[[Any, Prompt], Cond]] = {
    "usual": usual,
    "listed": listed,
    "hunyuan": hunyuan,
    "hidream": hidream,
    "kandinsky": kandinsky,
}
"""How prompts are read, by name."""
