r"""One name per thing, and one thing per name."""

import ast
from collections import defaultdict

from tests.repo.project import definitions, functions, parameters, place, python_files, require_none, tree_of

# What other code bases call these things. Words that have an honest meaning as well (dim, offset, depth, weights) are
# not in the list.
OUR_NAME = {
    "bsz": "batch_size", "bs": "batch_size", "num_tokens": "seq_len",
    "n_embd": "d_model", "hidden_size": "d_model", "embed_dim": "d_model",
    "n_head": "n_heads", "num_heads": "n_heads",
    "num_kv_heads": "n_kv_heads", "n_query_groups": "n_kv_heads", "n_local_heads": "n_kv_heads",
    "head_size": "head_dim", "d_k": "head_dim", "d_v": "head_dim", "hs": "head_dim",
    "hidden_dim": "d_ff", "intermediate_size": "d_ff", "d_mlp": "d_ff",
    "n_layer": "n_layers", "num_layers": "n_layers",
    "block_size": "max_seq_len", "n_ctx": "max_seq_len", "context_length": "max_seq_len",
    "idx": "token_ids", "input_ids": "token_ids", "input_pos": "positions",
    "attention_mask": "padding_mask (or mask)", "att": "attn_weights",
    "c_attn": "q_proj, k_proj, v_proj", "wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj",
    "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "ln_f": "final_norm", "wte": "tok_emb", "wpe": "pos_emb",
    "theta": "rope_base", "freqs_cis": "angles",
}  # fmt: skip


def test_no_class_or_function_is_defined_twice():
    places = defaultdict(list)
    for path in python_files("minillm", "notebooks/src"):
        for node in definitions(tree_of(path)):
            places[node.name].append(place(path, node))
    require_none(
        (f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1),
        "a public class or function has one home: import it, or find the second one its own name",
    )


def test_arguments_and_fields_have_the_glossary_s_names():
    violations = []
    for path in python_files("minillm", "notebooks/src"):
        tree = tree_of(path)
        named = [(node, node.arg) for function in functions(tree) for node in parameters(function)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                named.append((node, node.attr))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                named.append((node, node.target.id))
        violations += [f"{place(path, n)}: {name}; say {OUR_NAME[name]}" for n, name in named if name in OUR_NAME]
    require_none(violations, "one name per concept")
