"""What is not imported before it is needed. Times are in benchmarks/startup.md."""

import subprocess
import sys

HEAVY = ("torch", "numpy", "av", "PIL", "tokenizers", "safetensors", "huggingface_hub", "transformers")


def modules_after(code: str) -> set[str]:
    """Names of all modules that a fresh process has imported in the end."""
    code += "\nimport sys; print('\\n'.join(['', *sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_importing_the_package_imports_hardly_anything():
    assert not modules_after("import watchword; watchword.__version__") & {*HEAVY, "typer", "rich"}


def test_help_of_every_command_imports_nothing_heavy():
    code = "import sys\nfrom watchword.cli import main\n"
    for command in ([], ["ask"], ["fit"], ["bench"]):
        code += f"try:\n    main([*{command!r}, '--help'])\nexcept SystemExit:\n    pass\n"
    assert not modules_after(code) & {*HEAVY}


def test_a_missing_file_is_refused_before_anything_heavy_is_imported():
    code = "from watchword.cli import main\n"
    for command in (["ask", "/nope.mp4", "What?"], ["chat", "/nope.mp4"]):
        code += f"try:\n    main({command!r})\nexcept SystemExit as left:\n    assert left.code == 3\n"
    assert "torch" not in modules_after(code)


def test_loading_imports_neither_a_compiler_nor_the_hub():
    names = modules_after("import watchword\nwatchword.load(local_files_only=True)")
    assert "torch" in names
    assert not names & {"torch._dynamo", "torch._inductor", "sympy", "huggingface_hub", "transformers"}
