"""The command line: ``sfumato COMMAND``. Commands are imported when they are used, so help is instant."""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

import sfumato
from sfumato.errors import SfumatoError

COMMANDS = {
    "adapter": ("sfumato.cli.adapter:command", "Write an adapter in another layout."),
    "animate": ("sfumato.cli.animate:command", "Make a moving picture from key prompts."),
    "augment": ("sfumato.cli.augment:command", "Make a larger set of pictures from a set."),
    "cite": ("sfumato.cli.cite:command", "Print BibTeX of what a command line or a picture uses."),
    "class": ("sfumato.cli.tasks:class", "Make pictures of one of a model's classes."),
    "control": ("sfumato.cli.tasks:control", "Make a picture that follows a map of edges or of depth."),
    "convert": (
        "sfumato.cli.convert:command",
        "Write a checkpoint in another layout, dtype or size of files.",
    ),
    "compose": ("sfumato.cli.tasks:compose", "Make a picture of several sentences, each for an area."),
    "data": ("sfumato.cli.data:app", "Look at data sets, check them, build the default one."),
    "edit": ("sfumato.cli.tasks:edit", "Change a picture by a sentence."),
    "embed": (
        "sfumato.cli.embed:command",
        "Write what text encoders make of prompts, to be used without them.",
    ),
    "evaluate": ("sfumato.cli.evaluate:app", "Score pictures, and test blind what they show."),
    "families": ("sfumato.cli.families:families", "List the families of checkpoints that load."),
    "generate": ("sfumato.cli.generate:command", "Make pictures from a sentence."),
    "grids": ("sfumato.cli.tables:grids", "List the grids, which space the noise levels of a walk."),
    "guides": ("sfumato.cli.tables:guides", "List the ways to combine prompt and negative."),
    "inpaint": ("sfumato.cli.tasks:inpaint", "Make part of a picture anew."),
    "inspect": ("sfumato.cli.inspect:command", "Say what a file or folder of weights is."),
    "instruct": ("sfumato.cli.tasks:instruct", "Change a picture as an instruction says."),
    "interpolate": (
        "sfumato.cli.tasks:interpolate",
        "Make the pictures between two seeds, prompts or pictures.",
    ),
    "models": ("sfumato.cli.tables:models", "List the models that can be used."),
    "noises": ("sfumato.cli.tables:noises", "List the generators that seeds are for."),
    "outpaint": ("sfumato.cli.tasks:outpaint", "Continue a picture beyond its edges."),
    "prompt": ("sfumato.cli.prompt:command", "Show what a model will see of a prompt."),
    "resample": ("sfumato.cli.tasks:resample", "Change a picture by way of its own noise."),
    "restore": (
        "sfumato.cli.tasks:restore",
        "Restore a picture that was blurred, shrunk, greyed, masked or noisy.",
    ),
    "samplers": ("sfumato.cli.tables:samplers", "List the samplers."),
    "schedules": ("sfumato.cli.tables:schedules", "List the schedules, from time to noise level."),
    "style": ("sfumato.cli.tasks:style", "Make pictures in the style of another one."),
    "tile": ("sfumato.cli.tasks:tile", "Make pictures that can be laid side by side without a seam."),
    "train": ("sfumato.cli.train:command", "Train a model by a recipe."),
    "unconditional": ("sfumato.cli.tasks:unconditional", "Make pictures of nothing in particular."),
    "upscale": ("sfumato.cli.tasks:upscale", "Enlarge a picture, or make a large one in two passes."),
    "vary": ("sfumato.cli.tasks:vary", "Make pictures near that of a seed, or near a picture."),
}
"""Where each command is, and its line in the help."""


class LazyGroup(click.Group):
    """A group of commands that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called ``cmd_name``, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which names are nearest."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from sfumato.errors import UnknownName

            raise UnknownName("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sfumato.__version__, prog_name="sfumato")
def cli() -> None:
    """Train, sample, edit with, evaluate and serve diffusion models.

    Start with: sfumato generate "a rocket, 3d style" -o rocket.png
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; every expected error is one line on standard error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code = cli.main(arguments, prog_name="sfumato", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SfumatoError as error:
        complain(str(error))
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:
        if isinstance(error, click.UsageError):
            where = error.ctx.command_path if error.ctx is not None else "sfumato"
            # Click lists the choices of a missing option line by line.
            complain(f"{' '.join(error.format_message().split())} (see: {where} --help)")
        else:
            complain(error.format_message())
        return error.exit_code
    except click.exceptions.Exit as end:
        return end.exit_code
    except (click.Abort, KeyboardInterrupt):
        complain("stopped; nothing half-written was left behind")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def complain(text: str) -> None:
    """Print one error to standard error, in red where that shows."""
    plain = bool(os.environ.get("NO_COLOR")) or not sys.stderr.isatty()
    mark = "error:" if plain else "\033[31merror:\033[0m"
    # A lone surrogate in a user's argument must not make the complaint itself fail.
    print(f"{mark} {text}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)


def script() -> None:
    """The console script: ``main`` as a process."""
    sys.exit(main())
