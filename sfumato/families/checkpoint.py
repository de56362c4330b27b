"""A checkpoint's parts: which networks a file or folder holds, in which layout, told by keys and shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from sfumato.errors import WeightsError
from sfumato.families import adm, dcae, edm, languages, looks, shapes
from sfumato.families.keys.adm import classifier_table, pixel_table
from sfumato.families.keys.chroma import chroma_table
from sfumato.families.keys.edm import dhariwal_table, song_table
from sfumato.families.keys.joint import flux_table, mmdit_table
from sfumato.families.keys.look import redux_table, siglip_table
from sfumato.families.keys.lumina import language_table, lumina_table, zimage_table
from sfumato.families.keys.sana import dcae_table, sana_table
from sfumato.families.keys.sincos import dit_table, pixart_table
from sfumato.families.keys.text import clip_table, t5_table
from sfumato.families.keys.unet import table as unet_table
from sfumato.families.keys.vae import table as vae_table
from sfumato.families.keys.vae import tiny_table
from sfumato.families.signatures import FOLDERS, LANGUAGES, Found, networks, place_of, recognise
from sfumato.nn.adm import PixelConfig, PixelUNet
from sfumato.nn.chroma import Chroma, ChromaConfig
from sfumato.nn.clip import ClipConfig, ClipText
from sfumato.nn.dcae import Dcae, DcaeConfig
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.language import LanguageConfig
from sfumato.nn.look import Redux, Siglip, SiglipConfig
from sfumato.nn.lumina import Lumina, LuminaConfig
from sfumato.nn.mmdit import MMDiT
from sfumato.nn.noised import PixelClassifier
from sfumato.nn.sana import Sana, SanaConfig
from sfumato.nn.sincos import SincosConfig, SincosDiT
from sfumato.nn.song import SongUNet
from sfumato.nn.t5 import T5Encoder
from sfumato.nn.tiny import TinyVae
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import Vae, VaeConfig
from sfumato.nn.zimage import ZImage, ZImageConfig
from sfumato.weights.keys import KeyTable
from sfumato.weights.source import Source


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network of a checkpoint: what it is, and how it is made and filled.

    ``kind`` is one of NETWORKS; ``layout`` is "original" or "diffusers"; ``config`` the network's own, read from
    shapes; ``linear`` belongs to U-Nets (see shapes.unet). ``pipeline`` is the class of diffusers' pipeline that the
    folder names, empty for files.
    """

    kind: str
    layout: str
    source: Source
    config: Any
    linear: bool = True
    pipeline: str = ""

    @property
    def table(self) -> KeyTable:
        """The names of its weights."""
        if self.kind == "unet":
            return unet_table(self.config, linear=self.linear)
        return TABLES[self.kind](self.config)

    @property
    def exact(self) -> tuple[str, ...]:
        """Which of its tensors keep float32 in every dtype."""
        return getattr(NETWORKS[self.kind], "exact", ())

    def make(self) -> nn.Module:
        """The network, with weights of no meaning; WeightsError where its settings fit no network of its shapes."""
        try:
            return NETWORKS[self.kind](self.config)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise WeightsError(f"the settings of {self.source.path} fit no {self.kind}: {error}") from error


TABLES: dict[str, Callable[[Any], KeyTable]] = {
    "mmdit": mmdit_table,
    "flux": flux_table,
    "chroma": chroma_table,
    "lumina": lumina_table,
    "zimage": zimage_table,
    "sana": sana_table,
    "pixart": pixart_table,
    "dit": dit_table,
    "pixels": pixel_table,
    "dhariwal": dhariwal_table,
    "noised": classifier_table,
    "song": song_table,
    "vae": vae_table,
    "tiny": tiny_table,
    "dcae": dcae_table,
    "clip": clip_table,
    "t5": t5_table,
    **dict.fromkeys(LANGUAGES, language_table),
    "siglip": siglip_table,
    "redux": redux_table,
}
NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "unet": UNet,
    "mmdit": MMDiT,
    "flux": Flux,
    "chroma": Chroma,
    "lumina": Lumina,
    "zimage": ZImage,
    "sana": Sana,
    "pixart": SincosDiT,
    "dit": SincosDiT,
    "pixels": PixelUNet,
    "dhariwal": PixelUNet,
    "noised": PixelClassifier,
    "song": SongUNet,
    "vae": Vae,
    "tiny": TinyVae,
    "dcae": Dcae,
    "clip": ClipText,
    "t5": T5Encoder,
    **dict.fromkeys(LANGUAGES, languages.make_language),
    "siglip": Siglip,
    "redux": Redux,
}


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint by place, and what is told beside them.

    Places are denoiser, vae, text, text_2, text_3, language; looker and redux, which make tokens of pictures;
    classifier, which tells classes of noisy pictures apart.

    ``configs`` are the settings of a diffusers folder's components by name (scheduler, tokenizer and the networks).
    """

    source: Source
    parts: Mapping[str, Part]
    configs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def open_checkpoint(source: Source) -> Checkpoint:
    """The networks of ``source``; WeightsError, with what was looked for, if there is none that is known."""
    found = {place: recognise(one, place or source.path.name) for place, one in networks(source).items()}
    named = str(source.config.get("_class_name", ""))
    parts = {
        place_of(one.kind, place): replace(part_of(one, place), pipeline=named)
        for place, one in found.items()
    }
    configs = {name: part.config for name, part in source.parts.items()}
    if not parts:
        raise WeightsError(
            f"{source.path} holds no network that is known here; looked for {', '.join(FOLDERS)}"
        )
    return Checkpoint(source, parts, configs)


def part_of(network: Found, name: str) -> Part:
    """The network that was recognised, with its configuration. WeightsError says which shape does not fit."""
    kind, layout, source = network.kind, network.layout, network.source
    found = source.shapes
    config: Any
    linear = True
    try:
        if kind == "unet":
            config, linear = shapes.unet(found, layout)
        else:
            config = READERS[kind](found, layout)
        config = refined(config, source.config)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise WeightsError(
            f"{name} of {source.path} looks like a {kind} in {layout} layout, but {error} does not fit"
        ) from error
    return Part(kind=kind, layout=layout, source=source, config=config, linear=linear)


SIZES = (
    *("sample_size", "attention_head_dim", "num_attention_heads", "norm_num_groups", "attn_norm_num_groups"),
    *("interpolation_scale", "layer_norm_eps", "norm_eps", "rope_theta"),
)
"""Settings that are numbers above 0, or lists of such, where they are told."""


WHOLE = SIZES[:5]
"""Those of them that count something."""


def check_sizes(told: Mapping[str, Any]) -> None:
    """ValueError for one of SIZES that is none."""
    for name in SIZES:
        value = told.get(name)
        for one in value if isinstance(value, list) else [value]:
            number = isinstance(one, int | float) and not isinstance(one, bool)
            if one is not None and not (number and 0 < one < 1e9):
                raise ValueError(f"{name} = {value!r}, which must be above 0,")
            if name in WHOLE and isinstance(one, float):
                raise ValueError(f"{name} = {value!r}, which must be whole,")


def turned(config: FluxConfig | ChromaConfig | LuminaConfig | ZImageConfig, axes: Any, name: str) -> Any:
    """``config`` with ``axes``, how many values of a head turn with each coordinate, where they are told.

    ValueError, which calls them ``name``, unless they are as many as positions have coordinates, even (values turn in
    pairs), and together the width of a head.
    """
    if axes is None:
        return config
    head, count = config.width // config.heads, len(config.axes)
    whole = isinstance(axes, list | tuple) and all(
        type(one) is int and one > 0 and one % 2 == 0 for one in axes
    )
    if not whole or len(axes) != count or sum(axes) != head:
        raise ValueError(f"{name} = {axes!r}, which must be {count} even numbers whose sum is {head},")
    return replace(config, axes=tuple(axes))


def _told_clip(config: ClipConfig, told: Mapping[str, Any]) -> ClipConfig:
    """``config`` with what the settings of a CLIPTextModel say; ValueError for what no text can be read with."""
    heads = told.get("num_attention_heads") or config.heads
    if type(heads) is not int or config.width % heads:
        raise ValueError(f"num_attention_heads = {heads!r}, which does not divide a width of {config.width},")
    end = 2 if told.get("eos_token_id") is None else told["eos_token_id"]
    if type(end) is not int or not 0 <= end < config.vocabulary:
        raise ValueError(f"eos_token_id = {end!r}, which is no word of {config.vocabulary},")
    return replace(
        config,
        heads=heads,
        quick=told.get("hidden_act", "quick_gelu") == "quick_gelu",
        # Configurations made before transformers 4.30 name 2, which is not the end token of any CLIP.
        end=config.vocabulary - 1 if end == 2 else end,
        eps=told.get("layer_norm_eps") or config.eps,
    )


def refined(config: Any, told: Mapping[str, Any]) -> Any:
    """``config`` with what shapes cannot tell, from the ``config.json`` beside the weights if there is one."""
    check_sizes(told)
    if isinstance(config, UNetConfig) and told:
        heads = told.get("num_attention_heads") or told.get("attention_head_dim") or 8
        groups = told.get("norm_num_groups") or config.groups
        if isinstance(heads, int):
            return replace(config, heads=heads, groups=groups)
        wide = {width // count for width, count in zip(config.widths, heads, strict=True)}
        if len(wide) > 1:
            raise ValueError(f"attention_head_dim = {heads}, which makes heads of different widths,")
        return replace(config, head=wide.pop(), groups=groups)
    if isinstance(config, VaeConfig) and told:
        return replace(config, groups=told.get("norm_num_groups", config.groups))
    if isinstance(config, ClipConfig) and told:
        return _told_clip(config, told)
    if isinstance(config, PixelConfig) and told:
        return adm.told(config, adm.trained(config, told)) if adm.FLAGS in told else _pixels(config, told)
    if isinstance(config, SincosConfig) and told:
        side = told["sample_size"] // config.patch if "sample_size" in told else config.side
        usual = max(side * config.patch // 64, 1) if config.single else 1
        heads = told.get("num_attention_heads", config.heads)
        if side < 1 or heads < 1 or config.width % heads:
            raise ValueError(f"{heads} heads of a width of {config.width}, {side} patches a side,")
        extent = side / (told.get("interpolation_scale") or usual)
        return replace(config, heads=heads, side=side, extent=extent)
    if isinstance(config, FluxConfig | ChromaConfig) and told:
        return turned(config, told.get("axes_dims_rope"), "axes_dims_rope")
    if isinstance(config, LuminaConfig) and told:
        return turned(config, told.get("axes_dim_rope"), "axes_dim_rope")
    if isinstance(config, SanaConfig) and told:
        return dcae.told_sana(config, told)
    if isinstance(config, DcaeConfig) and told:
        return dcae.told_dcae(config, told)
    if isinstance(config, ZImageConfig) and told:
        theta = float(told.get("rope_theta") or config.theta)
        return replace(turned(config, told.get("axes_dims"), "axes_dims"), theta=theta)
    if isinstance(config, LanguageConfig) and told:
        return replace(config, told=told)
    if isinstance(config, SiglipConfig) and told:
        return looks.told_siglip(config, told)
    return config


PLAIN = {
    "act_fn": ("silu", "swish"),
    "time_embedding_type": ("positional",),
    "class_embed_type": (None,),
    "center_input_sample": (False,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "time_embedding_dim": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
"""What the settings of a UNet2DModel may say, for the network here to be that one."""
PLAIN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")


def odd_pixels(told: Mapping[str, Any]) -> list[str]:
    """The settings of a UNet2DModel that the network here does not follow."""
    odd = [name for name, allowed in PLAIN.items() if told.get(name, allowed[0]) not in allowed]
    kinds: Any = told.get("down_block_types", ())
    plain = isinstance(kinds, list | tuple) and all(kind in PLAIN_BLOCKS for kind in kinds)
    return odd if plain else [*odd, "down_block_types"]


def _pixels(config: PixelConfig, told: Mapping[str, Any]) -> PixelConfig:
    """``config`` with what the settings of a UNet2DModel say; ValueError for what is not followed."""
    kinds = told.get("down_block_types", ())
    if odd := odd_pixels(told):
        raise ValueError(f"{odd[0]} = {told[odd[0]]!r}, which is not native,")
    looks = [["Attn" in kind for kind in one] for one in (kinds, reversed(told.get("up_block_types", ())))]
    if looks[0] != looks[1]:
        raise ValueError(
            f"up_block_types = {told['up_block_types']!r}, which do not mirror down_block_types,"
        )
    groups = told.get("norm_num_groups") or config.groups
    head, side = told.get("attention_head_dim", 8), told.get("sample_size") or 0
    return replace(
        config,
        head=head or 0,
        groups=groups,
        middle_groups=told.get("attn_norm_num_groups") or groups,
        eps=float(told.get("norm_eps", 1e-5)),
        cos_first=bool(told.get("flip_sin_to_cos", True)),
        shift=float(told.get("freq_shift", 0)),
        pad=int(told.get("downsample_padding", 1)),
        side=side if isinstance(side, int) else int(side[0]),
    )


def _language(kind: str, found: shapes.Shapes, layout: str) -> LanguageConfig:
    return languages.language(found, kind)


READERS: dict[str, Callable[[shapes.Shapes, str], Any]] = {
    "mmdit": shapes.mmdit,
    "flux": shapes.flux,
    "chroma": shapes.chroma,
    "lumina": languages.lumina,
    "zimage": languages.zimage,
    "sana": dcae.sana,
    "pixart": shapes.pixart,
    "dit": shapes.dit,
    "pixels": lambda found, layout: adm.config(found) if layout == "original" else shapes.pixels(found),
    "dhariwal": edm.dhariwal,
    "noised": lambda found, layout: adm.classifier(found),
    "song": edm.song,
    "vae": shapes.vae,
    "tiny": shapes.tiny,
    "dcae": dcae.dcae,
    "clip": shapes.clip,
    "t5": lambda found, layout: shapes.t5(found),
    **{kind: partial(_language, kind) for kind in LANGUAGES},
    "siglip": looks.siglip,
    "redux": looks.redux,
}
