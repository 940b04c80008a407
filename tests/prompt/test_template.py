"""Chat templates: what they are given, and what a hostile one cannot do."""

import time

import pytest

from watchword.errors import CapacityError, RequestError, WatchwordError
from watchword.prompt import meter
from watchword.prompt.template import choose, render, render_all, split_batch

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What <b>is</b> it?"}]}]

LAUGHING = (
    "{% set n = namespace(x='a') %}{% for i in range(12) %}"
    "{% set n.x = [n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x] %}{% endfor %}"
)
LAUGHING_TOO = LAUGHING.replace("n.x", "m.x").replace("set n ", "set m ")

HOSTILE = {
    "long loop": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "empty loop in a macro": "{% macro f() %}{% for i in range(99999) %}{% endfor %}{% endmacro %}"
    "{% for i in range(99999) %}{{ f() }}{% endfor %}",
    "lazy loop": "{% for i in range(99999)|map('string')|map('upper') %}{% for j in "
    "range(99999)|map('string') %}"
    "{% endfor %}{% endfor %}",
    "loop calling itself": "{% for i in range(90000) recursive %}{{ loop(range(90000)) }}{% endfor %}",
    "string times number": "{{ 'a' * 10**9 }}",
    "string times number in two steps": "{% set n = 99999 %}{{ 'a' * n * n }}",
    "list times number": "{% set x = [0] * 10**9 %}",
    "number times string": "{% set x = 10**9 * 'ab' %}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set n = namespace(x=10) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "doubling by tilde": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% "
    "endfor %}",
    "doubling by plus": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% "
    "endfor %}",
    "doubling lists": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% "
    "endfor %}",
    "doubling by set block": "{% set n = namespace(x='a') %}{% for i in range(60) %}"
    "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "doubling by replace": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = n.x|replace('a', 'aa') %}{% endfor %}",
    "doubling by method": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = n.x.replace('a', 'aa') %}{% endfor %}",
    "doubling by join": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x]|join %}{% endfor %}",
    "doubling by join method": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = n.x.join([n.x, n.x]) %}{% endfor %}",
    "doubling by format": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = '%s%s' % (n.x, n.x) %}{% endfor %}",
    "doubling by format method": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = '{0}{0}'.format(n.x) %}{% endfor %}",
    "doubling by format filter": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = '%s%s'|format(n.x, n.x) %}{% endfor %}",
    "laughing lists": "{% set n = namespace(x='a') %}{% for i in range(12) %}"
    "{% set n.x = [n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x] %}{% endfor %}{{ n.x }}",
    "laughing lists as json": "{% set n = namespace(x='a') %}{% for i in range(12) %}"
    "{% set n.x = [n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x] %}{% endfor %}{% set y = n.x|tojson %}",
    "laughing lists as text": "{% set n = namespace(x='a') %}{% for i in range(12) %}"
    "{% set n.x = [n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x] %}{% endfor %}{% set y = n.x|string %}",
    "laughing lists by tilde": "{% set n = namespace(x='a') %}{% for i in range(12) %}"
    "{% set n.x = [n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x] %}{% endfor %}{% set y = n.x ~ '' %}",
    "laughing lists by percent": "{% set n = namespace(x='a') %}{% for i in range(12) %}"
    "{% set n.x = [n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x, n.x] %}{% endfor %}{% set y = '%s' % n.x %}",
    "center": "{{ 'a'|center(10**9) }}",
    "center method": "{{ 'a'.center(10**9) }}",
    "ljust method": "{{ 'a'.ljust(999999999) }}",
    "zfill method": "{{ 'a'.zfill(999999999) }}",
    "expandtabs": "{% set x = ('\t' * 90000).expandtabs(90000) %}",
    "translate": "{{ ('a' * 90000).translate({97: 'b' * 90000}) }}",
    "bytes": "{% set x = (1).to_bytes(10**9, 'big') %}",
    "width in percent": "{{ '%999999999d' % 1 }}",
    "many widths in percent": "{{ ('%90000d' * 90000) % (1,) }}",
    "starred width": "{{ '%*d' % (999999999, 1) }}",
    "width in format": "{{ '{:999999999}'.format(1) }}",
    "nested width in format": "{{ '{:{}}'.format(1, 999999999) }}",
    "width in format filter": "{{ '%999999999d'|format(1) }}",
    "indent": "{% set x = ('\n' * 90000)|indent(90000) %}",
    "indent by text": "{% set x = ('\n' * 90000)|indent('a' * 90000) %}",
    "wordwrap": "{% set x = ('a ' * 90000)|wordwrap(1, true, 'x' * 90000) %}",
    "json indent": "{{ [[[1]]]|tojson(indent=999999999) }}",
    "batch": "{% set x = [1]|batch(10**9, 'x')|list %}",
    "slice": "{% set x = [1]|slice(10**9)|list %}",
    "sum of lists": "{% set x = ([[0] * 90000] * 900)|sum(start=[]) %}",
    "constant text in a macro": "{% macro f() %}" + "x" * 50000 + "{% endmacro %}"
    "{% set x %}{% for i in range(99999) %}{{ f() }}{% endfor %}{% endset %}",
    "constant text in a loop": "{% set x %}{% for i in range(99999) %}" + "x" * 5000 + "{% endfor %}{% "
    "endset %}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ "
    "f(40) }}",
    "call blocks": "{% macro f(n) %}{{ caller() }}{% if n %}{% call f(n - 1) %}x{% endcall %}"
    "{% call f(n - 1) %}y{% endcall %}{% endif %}{% endmacro %}{% call f(40) %}z{% endcall %}",
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if true %}" * 3000 + "{% endif %}" * 3000,
    "long chain": "{{ a" + ".b" * 40000 + " }}",
    "long sum": "{{ 1" + " + 1" * 20000 + " }}",
    "large template": "x" * 200_000,
    "large output": "x" * 90_000 + "{{ messages }}{% for i in range(900) %}" + "y" * 5000 + "{% endfor %}",
    "lipsum": "{{ lipsum(n=10**6) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "class walk": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class walk by filter": "{{ (''|attr('__class__')).__mro__ }}",
    "globals walk": "{{ raise_exception.__globals__.keys() }}",
    "format walk": "{{ '{0.__class__.__mro__}'.format(raise_exception) }}",
    "changing messages": "{{ messages.append(1) }}",
    "clearing a message": "{{ messages[0].clear() }}",
    "laughing lists by replace": LAUGHING + "{% set y = n.x|replace('b', 'c') %}",
    "laughing lists by trim": LAUGHING + "{% set y = n.x|trim %}",
    "laughing lists compared": LAUGHING + LAUGHING_TOO + "{{ n.x == m.x }}",
    "laughing lists searched": LAUGHING + LAUGHING_TOO + "{{ n.x in [m.x] }}",
    "laughing lists tested": LAUGHING + LAUGHING_TOO + "{{ n.x is eq(m.x) }}",
    "laughing lists selected": LAUGHING + LAUGHING_TOO + "{{ [n.x]|select('eq', m.x)|list|length }}",
    "laughing lists counted": LAUGHING + LAUGHING_TOO + "{{ [n.x].count(m.x) }}",
    "laughing lists sorted": LAUGHING + LAUGHING_TOO + "{{ ([n.x, m.x]|sort)|length }}",
    "laughing lists, largest": LAUGHING + LAUGHING_TOO + "{{ ([n.x, m.x]|max)|length }}",
    "laughing tuples hashed": LAUGHING.replace("[", "(").replace("]", ")") + "{{ {n.x: 1}|length }}",
    "laughing tuples as index": LAUGHING.replace("[", "(").replace("]", ")") + "{{ {}[n.x] }}",
    "laughing tuples in dict": LAUGHING.replace("[", "(").replace("]", ")")
    + "{{ dict(((n.x, 1), (2, 3))) }}",
    "laughing tuples unique": LAUGHING.replace("[", "(").replace("]", ")") + "{{ [n.x]|unique|list|length }}",
    "kept slices": "{% set n = namespace(x=[], s='a' * 90000) %}{% for i in range(99999) %}"
    "{% set n.x = [n.x, n.s[1:]] %}{% endfor %}",
    "kept literals": "{% set n = namespace(x=[]) %}{% for i in range(99999) %}"
    "{% set n.x = [n.x, [" + "0," * 20000 + "]] %}{% endfor %}",
    "kept macro texts": "{% set n = namespace(x=[]) %}{% macro f() %}" + "x" * 50000 + "{% endmacro %}"
    "{% for i in range(99999) %}{% set n.x = [n.x, f()] %}{% endfor %}",
    "kept macro literals": "{% set n = namespace(x=[]) %}{% macro f() %}{% set n.x = [n.x, ["
    + "0," * 20000
    + "]] %}{% endmacro %}{% for i in range(99999) %}{% set y = f() %}{% endfor %}",
    "kept splits": "{% set n = namespace(x=[], s='a ' * 90000) %}{% for i in range(99999) %}"
    "{% set n.x = [n.x, n.s.split()] %}{% endfor %}",
    "kept lists": "{% set n = namespace(x=[]) %}{% for i in range(99999) %}"
    "{% set n.x = [n.x, range(99999)|list] %}{% endfor %}",
    "kept upper case": "{% set n = namespace(x=[], s='a' * 90000) %}{% for i in range(99999) %}"
    "{% set n.x = [n.x, n.s|upper] %}{% endfor %}",
    "block calling itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "large block called often": "{% block a %}" + "x" * 50000 + "{% endblock %}{% for i in range(99999) %}"
    "{% set y = self.a() %}{% endfor %}",
    "web filter": "{{ 'http://x'|urlize }}",
    "long date": "{{ strftime_now('%Y' * 1000) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_template_is_refused_quickly(name, monkeypatch):
    monkeypatch.setattr(meter, "MAX_SECONDS", 0.5)
    started = time.process_time()
    with pytest.raises(WatchwordError, match=r"^chat template"):
        render(HOSTILE[name], MESSAGES)
    assert time.process_time() - started < 3


def test_template_cannot_use_objects_in_messages(tmp_path):
    class Picture:
        def save(self, path):
            (tmp_path / "written").write_text(path)

    messages = [{"role": "user", "content": [{"type": "image", "image": Picture()}]}]
    with pytest.raises(RequestError, match="chat template: "):
        render("{{ messages[0].content[0].image.save('x') }}", messages)
    assert not list(tmp_path.iterdir())
    assert render(
        "{{ 'yes' if messages[0].content[0].image }} {{ messages[0].content[0].image }}", messages
    ).text == ("yes <Picture>")


def test_template_writes_what_it_should():
    template = (
        "{%- for m in messages -%}\n{% for part in m.content %}\n    {% if part.type == 'text' %}\n{{ "
        "part.text }}|\n"
        "    {% else %}\n<{{ part.type }}>{{ loop.index0 ~ '/' ~ loop.length }}\n    {% endif %}\n{% endfor "
        "%}\n{% endfor %}"
        "{{ messages[0]|tojson }}{{ '%03d' % 7 }}{{ '{:>4}'.format('x') }}{{ ['a', 'b']|join(', ') }}"
        "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{% set "
        "ns.n = ns.n + i %}"
        "{% endfor %}{{ ns.n }}{{ strftime_now('%%') }}{{ missing }}{{ 'a' * 3 }}{{ 'x'.upper().center(5) }}"
    )
    assert render(template, MESSAGES).text == (
        "<image>0/2\nWhat <b>is</b> it?|\n"
        '{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What <b>is</b> it?"}]}'
        "007   xa, b3%aaa  X  "
    )


def test_template_may_be_long_and_have_many_messages():
    template = (
        "{% for m in messages %}{% if m.role == 'x' %}"
        + "y" * 30_000
        + "{% endif %}{{ m.content }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "hello " * 50}] * 2000
    assert len(render(template, messages).text) == 600_000


def test_template_reports_its_own_refusal():
    with pytest.raises(RequestError, match="chat template refuses the messages: no system here"):
        render("{{ raise_exception('no system here') }}", MESSAGES)


def test_template_reports_a_mistake_in_itself():
    with pytest.raises(RequestError, match=r"chat template: TemplateSyntaxError: .*endfor"):
        render("{% for x in y %}", MESSAGES)
    with pytest.raises(RequestError, match="chat template: UndefinedError: 'nobody' is undefined"):
        render("{{ nobody.home }}", MESSAGES)


def test_template_size_is_reported():
    with pytest.raises(CapacityError, match=r"chat template: 200,000 characters; the limit is 100,000"):
        render("x" * 200_000, MESSAGES)


def test_template_marks_what_the_assistant_says():
    rendered = render(
        "A{% generation %}one{% endgeneration %}B{% generation %}two{% endgeneration %}", MESSAGES
    )
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["one", "two"]


def test_template_is_chosen_by_name_or_default():
    several = {"default": "d", "tool_use": "t", "rag": "r"}
    assert choose(several, None) == "d"
    assert choose(several, "rag") == "r"
    assert choose(several, None, tools=[{}]) == "t"
    assert choose("one", None) == "one"
    assert choose("one", "{{ other }}") == "{{ other }}"
    with pytest.raises(RequestError, match=r"there are several \(a, b\) and none is the default"):
        choose({"a": "1", "b": "2"}, None)
    with pytest.raises(RequestError, match="this checkpoint has none"):
        choose(None, None)


def test_template_refuses_what_are_no_messages():
    for wrong in ([], "hello", [["x"]], [{"content": "x"}]):
        with pytest.raises(RequestError, match="chat template: "):
            split_batch(wrong)


def test_template_continues_the_last_message():
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
    messages = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It is "}]
    [prompt] = render_all([messages], template, continue_final_message=True)
    assert prompt.text == "[user] Say it.</s>[assistant] It is "
    with pytest.raises(RequestError, match="exclude each other"):
        render_all([messages], template, continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(RequestError, match="does not appear in the prompt"):
        render_all([messages], "nothing", continue_final_message=True)
    with pytest.raises(RequestError, match="has no text to continue"):
        render_all(
            [[{"role": "user", "content": [{"type": "image"}]}]], template, continue_final_message=True
        )


def test_template_refuses_functions_as_tools():
    with pytest.raises(RequestError, match="a tool is a function"):
        render_all([MESSAGES], "x", tools=[print])
