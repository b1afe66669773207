"""What an option comes to that leaves a value to the model's preset and is no setting of a
configuration object: for the help, read from the presets themselves."""

from mitune.arguments.fields import Shown
from mitune.arguments.settings import default_text


def of_preset(path: str) -> Shown:
    """The value at ``path`` in the model's ``Preset``, such as "sampler.steps"."""

    def text() -> str:
        from mitune.cli.options.settings import presets

        return default_text(presets(), tuple(path.split(".")))

    return Shown(text)
