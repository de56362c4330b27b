"""Help in sections, for commands with many options: what is made first, then how, with what, and where to."""

from __future__ import annotations

import click

SECTIONS: dict[str, tuple[str, ...]] = {
    "Prompt": (
        *("negative", "dialect", "clip_skip", "padding", "prompt_2", "prompt_3", "negative_2", "negative_3"),
        *("look", "embedded", "draw", "wildcards", "embeddings_in"),
    ),
    "Sampling": ("steps", "sampler", "grid", "guidance", "guide", "seed", "count", "noise", "pick"),
    "Adapters": ("adapters", "adapters_in", "merged", "partial"),
    "Model": (
        *(
            "model",
            "dtype",
            "device",
            "family",
            "predicts",
            "tokens",
            "parts",
            "packed",
            "refiner",
            "handover",
        ),
        *("variant", "allow_pickle", "download"),
    ),
    "Made again": ("like", "image", "image_to", "content", "map", "mask", "begin"),
    "Output": ("out", "force", "preview", "preview_file", "preview_by", "as_json", "help"),
}
"""Which options stand together, by the names of their parameters; all others come first."""


class Sectioned(click.Command):
    """A command whose help lists its options by section; "Made again" is only for a command with ``--like``."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        again = any(param.name == "like" for param in params)
        names = [name for name in SECTIONS if name != "Made again" or again]
        known = {
            param: (section, place) for section in names for place, param in enumerate(SECTIONS[section])
        }
        rows: dict[str, list[tuple[int, tuple[str, str]]]] = {name: [] for name in ("Options", *names)}
        for number, param in enumerate(params):
            if (record := param.get_help_record(ctx)) is not None:
                name = "help" if "--help" in param.opts else param.name or ""
                section, place = known.get(name, ("Options", number))
                rows[section].append((place, record))
        for section, found in rows.items():
            records = [record for _, record in sorted(found)]
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)
