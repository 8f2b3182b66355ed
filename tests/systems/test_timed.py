"""Systems in the benchmark: operations by formula equal a counter's, kept bytes, batch sizes, shapes, fits."""

import pytest
import torch
from benches import NEW, TOY, toy_systems
from combined import rarely
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sharedllm import SharedLLMConfig, bundled_model
from sharedllm.benchmark.fit import fit, predict
from sharedllm.benchmark.shapes import SHAPES, get_shape
from sharedllm.benchmark.systems import make_timed
from sharedllm.systems.causal import causal_attention
from sharedllm.systems.full import TimedFull
from sharedllm.systems.operations import pairs
from sharedllm.systems.timed import State, TimedSystem, held_bytes, timed_names


@pytest.fixture(scope="module")
def made() -> dict[str, TimedSystem]:
    return toy_systems()


def split(system: TimedSystem, length: int) -> tuple[Tensor, Tensor]:
    """Context and running text, for `length` tokens before the window."""
    ids = torch.randint(0, TOY.vocab_size, (1, length + TOY.window - NEW))
    border = ids.shape[1] - system.running
    assert border == system.context(length)
    return ids[:, :border], ids[:, border:]


@pytest.mark.parametrize("length", [64, *rarely(101)])
@pytest.mark.parametrize("name", timed_names())
def test_operations_are_those_counted(made, name, length, monkeypatch):
    """Exact to the last multiplication, except for a budget, of which whole nodes may leave 2 %. Full attention in blocks."""
    monkeypatch.setattr(TimedFull, "block", 16)
    system, counted = made[name], []
    context, running = split(system, length)

    def count(work):
        with FlopCounterMode(display=False) as counter:
            result = work()
        counted.append(counter.get_total_flops())
        return result

    def decode(logits: Tensor) -> None:
        for _ in range(NEW):
            logits = system.step(state, logits[:, -1].argmax(-1, keepdim=True))

    # The counter does not know fused attention on CPUs; the plain kernel consists of products that it knows.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        state = count(lambda: system.read(context))
        logits = count(lambda: system.first(state, running))
        count(lambda: decode(logits))
    formula = system.operations(length)
    assert [formula.read, formula.first, formula.decode] == pytest.approx(
        counted, rel=0.02 if name in ("budget", "focus") else 0
    )
    assert logits.shape == (1, 1, TOY.vocab_size) and logits.isfinite().all()
    needed = system.operations(length, causal=True)
    assert needed.total < formula.total and needed.decode == formula.decode


@torch.no_grad()
@pytest.mark.parametrize("name", [*timed_names()[::2], *rarely(*timed_names()[1::2])])
def test_running_text_in_pieces_is_the_same(name):
    """At most `batch_tokens` tokens at once, in running text too; and a question instead of a whole window."""
    ids = torch.randint(0, TOY.vocab_size, (1, 64 + 20))
    logits: list[Tensor] = []
    for batch_tokens in (TOY.batch_tokens, 8):
        setting = TOY.setting(NEW, batch_tokens, running=20)
        torch.manual_seed(0)  # of a system's additional weights
        system = make_timed([name], TOY, setting, torch.float32, torch.device("cpu"))[name]
        assert system.running == min(20, 16 - NEW if name == "beacon" else 20)
        border = system.context(64)
        assert border + system.running == 84
        state = system.read(ids[:, :border])
        first = system.first(state, ids[:, border:])
        logits.append(torch.cat([first, system.step(state, first[:, -1].argmax(-1, keepdim=True))], 1))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [*timed_names()[1::2], *rarely(*timed_names()[::2])])
def test_where_nothing_is_decoded_no_cache_is_kept(name):
    """Except for the context. The running text is one pass; everything after it is the same."""
    ids, logits = torch.randint(0, TOY.vocab_size, (1, 80 + 12)), []
    for new_tokens in (NEW, 0):
        setting = TOY.setting(new_tokens, 8, running=12)
        torch.manual_seed(0)  # of a system's additional weights
        system = make_timed([name], TOY, setting, torch.float32, torch.device("cpu"))[name]
        state = system.read(ids[:, :80])
        logits.append(system.first(state, ids[:, 80:]))
        assert (state.cache is None) == (not new_tokens and name not in ("streaming", "full"))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    assert system.operations(80).decode == 0


def test_causal_pairs_by_hand():
    assert pairs(3, 2) == 3 * 5
    assert pairs(3, 2, causal=True) == 3 + 4 + 5


def test_shortcut_saves_operations(made):
    short, whole = (made[name].operations(1024) for name in ("sharedllm", "whole"))
    assert short.read < whole.read and (short.first, short.decode) == (whole.first, whole.decode)


@torch.no_grad()
def test_full_attention_equals_one_forward(made, monkeypatch):
    """Blocks by the causal kernel, running text, decoding: the logits of one pass over everything."""
    monkeypatch.setattr(TimedFull, "block", 16)
    full = made["full"]
    context, running = split(full, 40)
    state = full.read(context)
    logits = [full.first(state, running)]
    tokens = [context, running]
    for _ in range(NEW):
        tokens.append(logits[-1][:, -1].argmax(-1, keepdim=True))
        logits.append(full.step(state, tokens[-1]))
    plain = full.model(torch.cat(tokens, 1), use_cache=False).logits[:, -NEW - 1 :]
    assert made["sharedllm"].model.config.text_config._attn_implementation == "sdpa", "others share the base"
    torch.testing.assert_close(torch.cat(logits, 1), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("scaling", [0.3, None])
@pytest.mark.parametrize(("length", "total"), [(1, 7), (3, 7), (7, 7), (130, 700)])
def test_causal_attention_equals_a_mask(length, total, scaling, gradients):
    queries = torch.randn(2, 6, length, 8)
    keys, values = torch.randn(2, 2, total, 8), torch.randn(2, 2, total, 8)
    with torch.set_grad_enabled(gradients):
        out, _ = causal_attention(torch.nn.Identity(), queries, keys, values, None, scaling=scaling)
    keys, values = keys.repeat_interleave(3, 1), values.repeat_interleave(3, 1)
    hidden = ~torch.ones(length, total).tril(total - length).bool()
    scores = (queries @ keys.mT * (scaling or 8**-0.5)).masked_fill(hidden, -torch.inf)
    torch.testing.assert_close(out, (scores.softmax(-1) @ values).transpose(1, 2))


def test_the_shape_tiny_is_timed_as_the_bundled_model_is_set():
    config, shape = SharedLLMConfig.from_pretrained(bundled_model()), get_shape("tiny")
    reading = {name: getattr(config, name) for name in shape.setting(32, 4096).reading}
    assert reading == shape.setting(32, 4096).reading | {"strides": list(shape.strides)}
    assert {"injection", "encoding", "overlap", "injection_map", "strides"} <= reading.keys()
    base = config.text_config
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        assert getattr(base, name) == getattr(shape, name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sharedllm", "budget", "cepe"])
def test_reading_never_runs_more_tokens_at_once_than_asked(made, name):
    """Working memory is bounded by `batch_tokens` for any length; at least one unit is read at once."""
    system, seen = made[name], []
    layer = system.model.encoder.layers[0] if name == "cepe" else system.model.model.lower().layers[0].mlp
    handle = layer.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[:-1].numel()))
    size = system.setting.batch_tokens if name != "cepe" else 256
    try:
        system.read(torch.randint(0, TOY.vocab_size, (1, 1000)))
    finally:
        handle.remove()
    assert len(seen) > 3 and max(seen) <= size and sum(seen) >= 1000


def test_memory_bytes(made):
    context, running = split(made["full"], 64)
    with torch.no_grad():
        state = made["full"].read(context)
        # Keys and values of 64 tokens in 4 layers, 2 heads of 8, fp32.
        assert made["full"].memory_bytes(state) == 2 * 64 * 4 * 2 * 8 * 4
        made["full"].first(state, running)
    assert held_bytes(state.cache) > 2 * 64 * 4 * 2 * 8 * 4
    assert held_bytes(None) == made["window"].memory_bytes(State()) == 0


def test_unknown_names():
    with pytest.raises(ValueError, match="nobody"):
        make_timed(["nobody"], TOY, TOY.setting(NEW, 48), torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="llama-2-7b"):
        get_shape("nothing")


def test_shapes_are_those_of_their_names():
    config = SHAPES["llama-2-7b"].config()
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (4096, 32, 32_000)
    assert SHAPES["llama-3-8b"].config().rope_parameters["rope_theta"] == 500_000
    cpu = SHAPES["cpu-16x1024"]
    assert cpu.num_hidden_layers / cpu.lower_layers == 8
    for shape in SHAPES.values():
        # Halves at 16 and quarters at 8, the last two eighths at 4: every eighth token is kept; by the bundled model's
        # strides every fourth.
        coarse, middle, fine = shape.strides
        eighth = shape.chunk_size // 8
        assert 4 * eighth // coarse + 2 * eighth // middle + 2 * eighth // fine == shape.chunk_size // (
            4 if shape.form else 8
        )


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_fit_recovers_an_exponent(power):
    lengths = [4096, 16_384, 65_536, 262_144]
    found = fit(lengths, [3e-5 * n**power for n in lengths])
    assert found.exponent == pytest.approx(power) and found.error == pytest.approx(0, abs=1e-6)
    assert found.at(1e6) == pytest.approx(3e-5 * 1e6**power)


def test_fit_error_by_hand():
    """Points (0, 0), (1, 1), (2, 0) in logarithms: slope 0, residuals −1/3, 2/3, −1/3."""
    e = 2.718281828459045
    found = fit([1, e, e * e], [1, e, 1])
    assert found.exponent == pytest.approx(0) and found.error == pytest.approx((2 / 3 / 1 / 2) ** 0.5)
    assert fit([1, 2], [1, 2]).error is None


@pytest.mark.parametrize(
    ("lengths", "costs"), [([8], [1.0]), ([8, 8], [1.0, 2.0]), ([8, 16], [1.0]), ([1, 2], [0.0, 1.0])]
)
def test_fit_refuses(lengths, costs):
    with pytest.raises(ValueError, match="lengths"):
        fit(lengths, costs)


def test_prediction_goes_by_the_two_longest():
    """Quadratic, linear plus quadratic, linear; a power of the length below and above that."""
    assert predict([1, 2, 4], [100, 4, 16], 8) == pytest.approx(64)
    assert predict([1, 2, 4], [100, 8, 24], 8) == pytest.approx(2 * 8 + 64)
    assert predict([2, 4], [6, 12], 8) == pytest.approx(24)
    assert predict([4, 16], [2, 4], 64) == pytest.approx(8)
    assert predict([2, 4], [8, 64], 8) == pytest.approx(512)
    assert predict([2], [4.0], 8) is None
