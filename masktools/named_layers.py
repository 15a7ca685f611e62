"""The layers that a user named, to leave them out or to take them in."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from masktools.checks import listed
from masktools.errors import MaskError


@dataclass(frozen=True)
class NamedLayers:
    """The layers that a user named: those to leave as they are, and those to take in any case."""

    skip: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    @classmethod
    def of(cls, skip: Iterable[str] = (), include: Iterable[str] = ()) -> NamedLayers:
        """Return the names, sorted; a single string is no collection of names.

        Examples
        --------
        >>> NamedLayers.of(skip=["b", "a", "b"]).skip
        ('a', 'b')
        >>> NamedLayers.of(skip="fc")
        Traceback (most recent call last):
        TypeError: skip must hold layer names, got the one name 'fc'
        """
        for argument, names in (("skip", skip), ("include", include)):
            if isinstance(names, str):
                raise TypeError(f"{argument} must hold layer names, got the one name {names!r}")
        return cls(tuple(sorted(set(skip))), tuple(sorted(set(include))))

    def check(self, layers: Collection[str]) -> None:
        """Raise `MaskError` unless there are all these layers, and none is in both."""
        for argument, names in (("skip", self.skip), ("include", self.include)):
            for name in names:
                if name not in layers:
                    raise MaskError(f"{argument}: there is no layer {name!r}; {listed(layers)}")
        for name in self.skip:
            if name in self.include:
                raise MaskError(f"layer {name!r} is in both skip and include")


NONE = NamedLayers()
