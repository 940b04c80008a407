import pytest
import torch

from watchword.nn import oncard
from watchword.nn.blockwise import BlockLinear, block_weights
from watchword.nn.fourbit import Int4Linear, int4_weights
from watchword.nn.quantized import Int8Linear, int8_weights

INNER, OUTER = 128, 24


def linears():
    weight = torch.randn(OUTER, INNER)
    int8 = Int8Linear(INNER, OUTER, bias=False)
    int8.load(int8_weights(weight))
    int4 = Int4Linear(INNER, OUTER, group=32, bias=False)
    int4.load(int4_weights(weight, 32))
    for form in ("nf4", "fp4"):
        block = BlockLinear(INNER, OUTER, form=form, bias=False)
        block.load(block_weights(weight, form))
        yield form, block
    wide = BlockLinear(64, OUTER, form="nf4", block=128, bias=False)  # a block is two rows
    wide.load(block_weights(weight[:, :64], "nf4", block=128))
    yield from (("int8", int8), ("int4", int4), ("nf4 in blocks of two rows", wide))


@pytest.mark.parametrize("rows", [1, 5])
def test_products_are_those_of_the_weights_they_stand_for(rows):
    for name, linear in linears():
        x = torch.randn(rows, linear.in_features)
        if name == "int8":
            got = oncard.int8_product(x, linear.weight, linear.scale)
        else:
            got = oncard.four_bit_product(x, *linear.laid())
        torch.testing.assert_close(got, x @ linear.dense().t(), msg=name)


def test_one_row_is_summed_in_float32_whatever_its_type():
    for name, linear in linears():
        x = torch.randn(1, linear.in_features).bfloat16()
        if name == "int8":
            got = oncard.int8_row(x, linear.weight, linear.scale)
        else:
            laid = linear.laid()
            got = oncard.four_bit_row(x, *laid, *([None] * (3 - len(laid))))
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, (x.float() @ linear.dense().t()).bfloat16(), msg=name)
