"""Linears with differences: what they compute, for whom, and what learns."""

import copy
import re
import threading

import pytest
import torch
from torch import nn

from watchword.errors import RequestError
from watchword.nn import lora
from watchword.nn.lora import BASE, LoraLinear, add_adapter, using


class Pair(nn.Module):
    """Two layers of linears and something that is none."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"q": nn.Linear(6, 6), "up": nn.Linear(6, 8), "down": nn.Linear(8, 6)})
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(6)
        self.lm_head = nn.Linear(6, 9, bias=False)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer["down"](torch.tanh(layer["up"](self.norm(layer["q"](x)))))
        return self.lm_head(x)


def shaken(model, name, seed=1):
    """B is zero at first, which hides mistakes."""
    source = torch.Generator().manual_seed(seed)
    for linear in lora.adapted(model).values():
        if name in linear.adapters:
            linear.adapters[name].B.data.normal_(generator=source)
    return model


def with_adapters(*names, targets=("q", "down")):
    model = Pair()
    for at, name in enumerate(names):
        add_adapter(model, targets, 2 + at, name=name)
        shaken(model, name, seed=at)
    lora.set_active(model, BASE)
    return model.eval()


X = torch.linspace(-1, 1, 4 * 3 * 6).view(4, 3, 6)


def test_a_new_adapter_changes_nothing_and_a_learned_one_adds_its_product():
    model = Pair()
    plain = model(X)
    add_adapter(model, ["q"], 3, alpha=5)
    torch.testing.assert_close(model(X), plain, rtol=0, atol=0)
    linear = shaken(model, "default").layers[0]["q"]
    one = linear.adapters["default"]
    wanted = linear.base(X) + 5 / 3 * X @ one.A.T @ one.B.T
    torch.testing.assert_close(linear(X), wanted)
    torch.testing.assert_close(one.delta(), 5 / 3 * one.B @ one.A)


def test_the_scale_is_alpha_by_the_rank_or_by_its_root():
    assert lora.Lora(4, 4, 4, alpha=8).scale == 2
    assert lora.Lora(4, 4, 4, alpha=8, rslora=True).scale == 4


def test_only_the_adapter_learns_and_the_rest_stays_as_it_was():
    model = Pair()
    before = copy.deepcopy(model.state_dict())
    add_adapter(model, ["q", "up"], 2, dropout=0.5)
    learning = {name for name, one in model.named_parameters() if one.requires_grad}
    assert learning == {
        f"layers.{layer}.{end}.lora_default.{part}"
        for layer in (0, 1)
        for end in ("q", "up")
        for part in "AB"
    }
    step = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1)
    for _ in range(2):
        step.zero_grad()
        model(X).square().mean().backward()
        step.step()
    assert all(one.abs().sum() > 0 for name, one in model.named_parameters() if name.endswith(".B"))
    after = lora.plain_state(model)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_each_row_gets_its_own_adapter():
    model = with_adapters("one", "two", "three")
    names = ["two", None, "one", BASE]
    lora.set_active(model, "three")
    alone = []
    for row, name in enumerate(names):
        with using(name):
            alone.append(model(X[row : row + 1]))
    with using(names):
        together = model(X)
    torch.testing.assert_close(together, torch.cat(alone))
    assert len({tuple(each[0, 0].tolist()) for each in alone}) == 4


def test_rows_that_are_alike_need_no_gathering():
    model = with_adapters("one")
    with using(["one"] * 4):
        assert lora.CHOSEN.get() == "one"
        torch.testing.assert_close(model(X), forced(model, "one"), rtol=0, atol=0)


def forced(model, name):
    with using(name):
        return model(X)


def test_an_adapter_that_a_linear_lacks_adds_nothing_to_it():
    model = with_adapters("one")
    add_adapter(model, ["up"], 2, name="other")
    with using("other"):
        torch.testing.assert_close(model(X), forced(model, BASE), rtol=0, atol=0)


def test_the_choice_belongs_to_its_thread():
    model = with_adapters("one")
    found = []
    with using("one"):
        worker = threading.Thread(target=lambda: found.append(model(X)))
        worker.start()
        worker.join()
    torch.testing.assert_close(found[0], forced(model, BASE), rtol=0, atol=0)


def test_the_choice_ends_with_its_block_even_after_an_error():
    def broken():
        with using("one"):
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert lora.CHOSEN.get() is None


def test_half_precision_keeps_the_adapter_in_float32_and_the_output_in_half():
    model = Pair().to(torch.bfloat16)
    add_adapter(model, ["q"], 2)
    linear = shaken(model, "default").layers[0]["q"]
    assert linear.adapters["default"].A.dtype == torch.float32
    assert linear(X.to(torch.bfloat16)).dtype == torch.bfloat16
    assert linear.weight is linear.base.weight
    assert linear.bias is linear.base.bias


def test_removing_the_last_adapter_leaves_the_model_as_it_was():
    model = with_adapters("one", "two")
    before = forced(model, BASE)
    lora.set_active(model, "two")
    lora.remove_adapter(model, "two")
    assert (lora.adapter_names(model), lora.active(model)) == (["one"], BASE)
    lora.remove_adapter(model, "one")
    assert not any(isinstance(one, LoraLinear) for one in model.modules())
    torch.testing.assert_close(model(X), before, rtol=0, atol=0)


def test_targets_are_ends_of_names_expressions_or_all():
    model = Pair()
    every = [f"layers.{layer}.{end}" for layer in (0, 1) for end in ("q", "up", "down")]
    assert lora.matching(model, lora.ALL) == every
    assert lora.matching(model, ["0.up", "q"]) == ["layers.0.q", "layers.0.up", "layers.1.q"]
    assert lora.matching(model, r"layers\.1\.(q|up)") == ["layers.1.q", "layers.1.up"]
    assert add_adapter(model, lora.ALL, 2, ranks={"layers.0.q": 5}, alphas={"layers.1.q": 3.0}) == every
    found = lora.adapted(model)
    assert found["layers.0.q"].adapters["default"].rank == 5
    assert found["layers.1.q"].adapters["default"].scale == 1.5
    assert found["layers.0.up"].adapters["default"].scale == 2
    assert lora.matching(model, lora.ALL) == every  # adapted ones are targets as well, their parts are not


def test_a_stamp_tells_what_an_adapter_changes_where():
    model = with_adapters("one", "two", targets=["0.q"])
    one = lora.stamps(model, "one")
    assert len(one) == 1
    assert one == lora.stamps(model.layers[0], "one") != lora.stamps(model, "two")
    assert lora.stamps(model.layers[1], "one") == lora.stamps(model, BASE) == ()
    lora.remove_adapter(model, "one")
    add_adapter(model, ["0.q"], 2, name="one")
    assert lora.stamps(model, "one") != one


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda m: add_adapter(m, ["gate"], 2),
            "gate fits nothing in Pair; its linears end in down, lm_head",
        ),
        (lambda m: add_adapter(m, ["q", "gate"], 2), "targets: gate fits nothing in Pair"),
        (lambda m: add_adapter(m, [], 2), "[] fits nothing"),
        (lambda m: add_adapter(m, "layers", 2), "targets: layers is a ModuleList, and only linears"),
        (lambda m: add_adapter(m, "(", 2), "targets '(': missing ), unterminated subpattern"),
        (lambda m: add_adapter(m, ["norm"], 2), "targets: norm is a LayerNorm, and only linears"),
        (lambda m: add_adapter(m, ["q"], 0), "LoRA: rank 0, alpha 0.0, dropout 0.0; expected"),
        (lambda m: add_adapter(m, ["q"], 2, dropout=1.0), "dropout 1.0; expected"),
        (lambda m: add_adapter(m, ["q"], 2, name="a.b"), "adapter 'a.b': not a name"),
        (lambda m: add_adapter(m, ["q"], 2, name=BASE), "adapter 'base': not a name"),
        (lambda m: add_adapter(m, ["q"], 2, name="one"), "adapter 'one': this model has one of that name"),
        (lambda m: lora.set_active(m, "two"), "adapter 'two': unknown; this model has base, one"),
        (lambda m: lora.remove_adapter(m, "two"), "adapter 'two': unknown; this model has base, one"),
        (lambda m: lora.remove_adapter(m, BASE), "adapter 'base': is the model without one"),
        (lambda m: calls(m, ["one", BASE]), "LoRA: adapters for 2 rows, but a linear got 4"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(ask, message):
    model = with_adapters("one")
    before = list(model.state_dict())
    with pytest.raises(RequestError, match=re.escape(message)):
        ask(model)
    assert list(model.state_dict()) == before


def calls(model, names):
    with using(names):
        model(X)
