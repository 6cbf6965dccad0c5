"""Settings that were added when runs had been stored already."""

from typing import Any, ClassVar

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class WithNewer(BaseModel):
    """Settings of which some are newer than stored runs.

    Attributes:
        newer: Their names, beside those of the classes above: at their defaults they are left out of what is
            written, so that the ids and records of older runs stay as they are.
    """

    newer: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_newer_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = dump(self)
        fields = type(self).model_fields
        for name in {name for kind in type(self).__mro__ for name in vars(kind).get("newer", ())}:
            if getattr(self, name) == fields[name].get_default(call_default_factory=True):
                content.pop(name, None)
        return content
