"""The methods that act while a picture is sampled, by name."""

from mitune.config.choices import Acting, check_choice
from mitune.methods.sampling.attend_and_excite import AttendAndExcite
from mitune.methods.sampling.information import InformationGuidance
from mitune.methods.sampling.sample import Method
from mitune.methods.sampling.structured import StructuredGuidance

_METHODS: dict[str, Method | None] = {
    "guidance": None,
    "attend-and-excite": AttendAndExcite,
    "structured": StructuredGuidance,
    "information": InformationGuidance,
}


def find_method(name: Acting) -> Method | None:
    """The method of a name, with its authors' settings; None for plain guidance, which the engine
    does itself.

    Raises:
        UserError: an unknown name.
    """
    check_choice("method", name, Acting)
    return _METHODS[name]
