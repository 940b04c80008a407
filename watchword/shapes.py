"""The axis letters of the whole library, for `Float[Tensor, "B L D"]` annotations.

    B batch rows      T frames            H W pixels        P patch features per frame (class token included)
    Q query tokens    M visual tokens     L text length     S past + L (keys)
    D model width     h heads             g key/value heads d head width
    V vocabulary      K beams             N any count

`T` is never tokens. `D` is the width of the module one is in.
"""

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Tensor", "UInt8"]
