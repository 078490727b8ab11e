"""Shapes in signatures: jaxtyping where it is installed (tests execute it), inert names elsewhere.

Letters: B batch (sequences, environments, or B·T flattened starts) · T time · H horizon · D deter ·
S groups · K classes · E embed · F feat · A action · C Y X channels, rows, columns.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:  # a tool for tests, no dependency of users

        class _Inert:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = UInt8 = _Inert

__all__ = ["Bool", "Float", "Int", "UInt8"]
