r"""Counting weights: a block, then the model."""

from minillm.course.exercise import Exercise, Mistake
from minillm.course.lessons.lesson_07.sizes import (
    EXACT_COUNT,
    attention_count,
    block_by,
    config_cases,
    counted_in_a_built_block,
    counted_in_a_built_model,
    ffn_count,
    model_count_by,
    norm_count,
)

BLOCK_PARAMETERS = Exercise(
    id="model.counting.block_parameters",
    lesson="07",
    title="Count a block",
    task="Count the weights of one block from the configuration, without building it: a dictionary with `attention`, "
    "`ffn` and `norm`. Only `d_model`, `n_heads`, `n_kv_heads`, `head_dim`, `ffn` (an `Mlp` or a `Glu`, with `d_ff` "
    "and `bias`), `norm` (`kind` and `bias`) and `attention` (`qkv_bias`, `o_bias`) matter. A matrix from a to b "
    "features has a * b weights, its bias b.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=75,
    hints=(
        "Write down the shape of each of the four projections. q_proj makes n_heads vectors of head_dim features out "
        "of d_model features. How many do k_proj and v_proj make? From where to where does o_proj go?",
        "head_dim is a size of its own: n_heads * head_dim need not be d_model.",
        "An MLP has two matrices, up and down; a GLU has three: gate, up and down. `isinstance(config.ffn, Glu)` tells "
        "(`from minillm.config import Glu`).",
        "A bias has one number for each *output* feature: of q_proj n_heads * head_dim, of down_proj d_model.",
        "A norm has a weight of d_model numbers. A LayerNorm (`kind == \"layer\"`) may have a bias, an RMSNorm never "
        "has. And a block has two norms.",
    ),
    cases=config_cases,
    oracle=counted_in_a_built_block,
    other_style=block_by(),
    tolerance=EXACT_COUNT,
    mistakes=(
        Mistake(
            "head_dim = d_model / n_heads",
            block_by(attention=lambda c: attention_count(c, head_dim=lambda c: c.d_model // c.n_heads)),
            "You take head_dim to be d_model / n_heads (perhaps by writing d_model for n_heads * head_dim). Many "
            "models choose so, but it is a choice: use config.head_dim.",
        ),
        Mistake(
            "multi-head formula for grouped heads",
            block_by(attention=lambda c: attention_count(c, n_kv_heads=lambda c: c.n_heads)),
            "You count keys and values as if every query head had its own. They have n_kv_heads, which may be fewer: "
            "k_proj and v_proj are smaller matrices than q_proj.",
        ),
        Mistake(
            "o_proj forgotten",
            block_by(attention=lambda c: attention_count(c, output=False)),
            "o_proj is missing: the matrix that mixes the heads and brings them back to d_model features.",
        ),
        Mistake(
            "the gate forgotten",
            block_by(ffn=lambda c: ffn_count(c, gate=False)),
            "A GLU has three matrices, not two: gate_proj, up_proj, down_proj. (That is why its d_ff is usually chosen "
            "at two thirds of an MLP's.)",
        ),
        Mistake(
            "d_ff = 4 d_model",
            block_by(ffn=lambda c: ffn_count(c, d_ff=lambda c: 4 * c.d_model)),
            "You assume a hidden width of 4 * d_model. The configuration says how wide it is: config.ffn.d_ff.",
        ),
        Mistake(
            "no biases",
            block_by(
                attention=lambda c: attention_count(c, biases=lambda c, q, kv: 0),
                ffn=lambda c: ffn_count(c, biases=lambda c: 0),
            ),
            "You count matrices only. Where the configuration asks for biases (qkv_bias, o_bias, ffn.bias), each "
            "output feature has one more number.",
        ),
        Mistake(
            "attention's biases always there",
            block_by(attention=lambda c: attention_count(c, biases=lambda c, q, kv: q + 2 * kv + c.d_model)),
            "You count attention's biases in every model. There are two switches, qkv_bias and o_bias, and LLaMA has "
            "neither.",
        ),
        Mistake(
            "the gate's bias forgotten",
            block_by(ffn=lambda c: ffn_count(c, biases=lambda c: c.ffn.bias * (c.ffn.d_ff + c.d_model))),
            "With biases, a GLU has three of them: gate_proj and up_proj have d_ff each, down_proj has d_model.",
        ),
        Mistake(
            "one norm",
            block_by(norm=norm_count),
            "A block has two norms, attn_norm and ffn_norm.",
        ),
        Mistake(
            "a norm's bias forgotten",
            block_by(norm=lambda c: 2 * c.d_model),
            "A LayerNorm has a bias beside its weight (if norm.bias says so): d_model numbers more for each norm.",
        ),
        Mistake(
            "an RMSNorm with bias",
            block_by(norm=lambda c: 4 * c.d_model),
            "You count a bias for every norm. An RMSNorm has a weight only, and a LayerNorm may go without a bias too.",
        ),
    ),
)

COUNT_PARAMETERS = Exercise(
    id="model.counting.count_parameters",
    lesson="07",
    title="Count the model",
    task="Count all trainable numbers of a GPT: a dictionary with `embedding`, `position`, `attention`, `ffn`, `norm`, "
    "`lm_head` (each over all layers) and `total`. Use your `block_parameters`. Learned positions are a table of "
    "max_seq_len rows; all other kinds of position have no weights.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=76,
    hints=(
        "Three of the parts are those of a block, times n_layers. Two or three are tables of d_model columns: how many "
        "rows has each?",
        "A tied head (`tie_embeddings`) is the same tensor as the token embedding. How much does it add?",
        "A pre-norm model normalizes the stream once more before the head, a post-norm model has nothing left to "
        "normalize. Half of a block's norms is one norm.",
    ),
    cases=config_cases,
    oracle=counted_in_a_built_model,
    other_style=model_count_by(),
    tolerance=EXACT_COUNT,
    mistakes=(
        Mistake(
            "tied head counted twice",
            model_count_by(head=lambda c: c.vocab_size),
            "You count lm_head although it is tied: it is the very tensor of the token embedding, used a second time. "
            "It adds nothing when tie_embeddings is True.",
        ),
        Mistake(
            "head never counted",
            model_count_by(head=lambda c: 0),
            "You never count lm_head. When tie_embeddings is False it is a matrix of its own, vocab_size rows of "
            "d_model numbers: in LLaMA-7B that is 131 million.",
        ),
        Mistake(
            "positions always counted",
            model_count_by(position=lambda c: c.max_seq_len),
            "You count a table of positions in every model. Only `Learned()` positions have weights; RoPE turns "
            "queries and keys by angles that nobody trains.",
        ),
        Mistake(
            "positions never counted",
            model_count_by(position=lambda c: 0),
            "Learned positions are weights: a table of max_seq_len rows, d_model wide.",
        ),
        Mistake(
            "one block",
            model_count_by(layers=lambda c: 1),
            "You count one block. Each of the n_layers blocks has weights of its own.",
        ),
        Mistake(
            "final norm forgotten",
            model_count_by(final_norm=lambda c: 0),
            "The final norm of a pre-norm model is missing: one norm more than those in the blocks.",
        ),
        Mistake(
            "final norm always there",
            model_count_by(final_norm=norm_count),
            "You count a final norm in a post-norm model too. There each block ends with a norm, so there is none "
            "after the last.",
        ),
        Mistake(
            "final norm without its bias",
            model_count_by(final_norm=lambda c: c.d_model if c.residual == "pre" else 0),
            "The final norm is a norm like those in the blocks: if they have a bias, so has it.",
        ),
        Mistake(
            "total of the blocks",
            model_count_by(total=lambda parts: parts["attention"] + parts["ffn"] + parts["norm"]),
            "The parts are right, but `total` leaves out the embeddings (tokens, positions, head). They are trained "
            "too.",
        ),
    ),
)
