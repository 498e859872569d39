r"""No hidden inputs: no environment variable, no device or dtype chosen at import, no global seed."""

import ast
from collections.abc import Iterator

from tests.repo.project import dotted, place, python_files, require_none, tree_of

CHOOSES_FOR_ALL = {
    "torch.device", "torch.set_default_dtype", "torch.set_default_device", "torch.set_num_threads",
    "torch.get_default_dtype", "torch.cuda.is_available", "torch.backends.mps.is_available", "torch.manual_seed",
    "torch.tensor", "torch.zeros", "torch.ones", "torch.arange", "torch.full", "torch.eye",
}  # fmt: skip
SEEDS_ALL = {"torch.manual_seed", "torch.seed", "random.seed", "np.random.seed", "numpy.random.seed"}
DTYPES = {"float16", "float32", "float64", "bfloat16", "int8", "int32", "int64", "half", "float", "double"}


def import_time(tree: ast.Module) -> Iterator[ast.AST]:
    r"""The nodes that run when a module is imported: at its top and in class bodies, not inside functions."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo += [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)]
        elif not isinstance(node, ast.Lambda):
            todo += ast.iter_child_nodes(node)


def test_no_behaviour_hangs_on_an_environment_variable():
    violations = []
    for path in python_files("minillm"):
        for node in ast.walk(tree_of(path)):
            # os.environ as a whole may be handed on to another process.
            read = isinstance(node, ast.Subscript) and dotted(node.value).endswith("os.environ")
            call = isinstance(node, ast.Call) and dotted(node.func) in (
                "os.getenv",
                "os.environ.get",
                "os.environ.pop",
                "os.environ.setdefault",
                "os.putenv",
            )
            if read or call:
                violations.append(f"{place(path, node)}: {ast.unparse(node)}")
    require_none(violations, "what a function does is decided by its arguments")


def test_no_module_chooses_device_or_dtype():
    violations = []
    for path in python_files("minillm"):
        for node in import_time(tree_of(path)):
            if isinstance(node, ast.Call) and dotted(node.func) in CHOOSES_FOR_ALL:
                violations.append(f"{place(path, node)}: {ast.unparse(node)} when imported")
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                left, _, dtype = dotted(node.value).rpartition(".")
                if left == "torch" and dtype in DTYPES:
                    violations.append(f"{place(path, node)}: {ast.unparse(node)}")
    require_none(violations, "device and dtype come with the arguments")


def test_nothing_seeds_the_global_generators():
    # Training may: dropout draws from torch's global generator and takes no other.
    parts = ("config.py", "layers", "model", "text", "inference", "tuning", "pretrained")
    violations = []
    for path in python_files(*(f"minillm/{part}" for part in parts)):
        calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        violations += [f"{place(path, call)}: {dotted(call.func)}" for call in calls if dotted(call.func) in SEEDS_ALL]
    require_none(violations, "take a torch.Generator or a random.Random as an argument")
