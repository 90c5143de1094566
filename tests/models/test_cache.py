"""Caches that are not what a reading needs are refused, by both models in the same words."""

import copy

import pytest
import torch

import qlesson as ql
from qlesson.models import llama, tinygpt
from qlesson.models.cache import PER_TOKEN, KVCache

CONFIG = tinygpt.Config(context=16, layers=2, width=16, heads=2)
SIZES = llama.Config(94, layers=2, width=16, hidden=16, heads=2, kv_heads=1, context=16)


def gpt():
    torch.manual_seed(0)
    return tinygpt.GPT(CONFIG).eval()


def tiny_llama():
    torch.manual_seed(0)
    return llama.Llama(SIZES).eval()


def write(model, n=1, **more):
    prompt = "abc" if isinstance(model, tinygpt.GPT) else [1, 2, 3]
    return list(model.generate(prompt, n, temperature=0, **more))


IDS = torch.tensor([[1, 2, 3]])
both = pytest.mark.parametrize("make", [gpt, tiny_llama])


@both
@torch.no_grad()
def test_a_cache_is_of_one_model(make):
    model, cache = make(), KVCache()
    model(IDS, cache)
    for other in (copy.deepcopy(model), tiny_llama(), gpt()):
        with pytest.raises(ValueError, match="what another model read, .* begin with KVCache"):
            other(IDS, cache)
    assert model(IDS, cache).isfinite().all() and cache.length == 6


@both
@torch.no_grad()
def test_a_reading_that_was_broken_off_is_not_gone_on_with(make):
    """In the first reading a layer is missing, in a later one layers are of unequal length."""
    model = make()
    for before in (0, 1):
        cache = KVCache()
        for _ in range(before):
            model(IDS, cache)
        hook = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(IDS, cache)
        hook.remove()
        with pytest.raises(ValueError, match="a reading that was broken off"):
            model(IDS, cache)


@both
def test_what_new_cache_gives_is_empty_and_a_cache(make):
    model, cache = make(), KVCache()
    wanted = write(model)
    assert write(model, new_cache=lambda: cache) == wanted
    with pytest.raises(ValueError, match="new_cache gives must be empty: use KVCache, or"):
        write(model, new_cache=lambda: cache)
    for wrong in (KVCache(), lambda: None, lambda: 3, 0):
        with pytest.raises(TypeError, match="new_cache"):
            write(model, new_cache=wrong)


def test_a_text_beyond_the_context_asks_for_another_cache():
    cache = KVCache()
    with pytest.raises(ValueError, match="new_cache gives must be empty"):
        write(gpt(), 20, new_cache=lambda: cache)
    assert write(gpt(), 20) == write(gpt(), 20, new_cache=None)


def test_a_measured_window_has_an_empty_cache():
    model, text = tinygpt.in_float64(gpt()), tinygpt.heldout_text()[:33]
    cache = KVCache()
    reader = tinygpt.Cached(model, lambda: cache)
    reader(IDS)
    with pytest.raises(ValueError, match="new_cache gives must be empty"):
        reader(IDS)
    with pytest.raises(TypeError, match="what new_cache gives must be a KVCache, got NoneType"):
        tinygpt.perplexity(model, text, 16, new_cache=lambda: None)
    with pytest.raises(TypeError, match="new_cache must be a function"):
        tinygpt.perplexity(model, text, 16, new_cache=0)


@pytest.mark.parametrize("scheme", [None, ql.Scheme(8, granularity=PER_TOKEN)])
def test_a_cache_that_generate_filled_can_be_read_on_from(scheme):
    """`generate` works in torch.inference_mode, whose tensors cannot be changed outside it."""
    config = llama.Config(**vars(SIZES) | {"context": 64, "width": 64, "head_width": 32})
    torch.manual_seed(0)
    model, prompt, cache = llama.Llama(config).double().eval(), [*range(40)], KVCache(scheme)
    written = list(model.generate(prompt, 4, new_cache=lambda: cache))
    new, own = torch.tensor([[written[-1]]]), KVCache(scheme)
    with torch.no_grad():
        for ids in torch.tensor([prompt + written[:-1]]).split([40, 1, 1, 1], 1):
            model(ids, own)
        wanted = model(new, own)
        torch.testing.assert_close(model(new, cache), wanted, rtol=1e-12, atol=1e-12)
        model(new, own)
    model(new, cache).sum().backward()  # with a gradient too
    assert cache.length == own.length == 45


# --- what is written from the logits ---


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_are_no_numbers_write_nothing(make, value, temperature):
    model = make()
    with torch.no_grad():
        model.norm.weight[3] = value
    prompt = "abc" if make is gpt else [1, 2, 3]
    with pytest.raises(ValueError, match="logits reach (nan|inf), .*: look for NaN and infinity"):
        list(model.generate(prompt, 2, temperature=temperature))


@both
def test_the_smallest_temperature_takes_the_likeliest(make):
    model = make()
    prompt = "abc" if make is gpt else [1, 2, 3]
    for temperature in (1e-308, 5e-324):
        drawn = list(model.generate(prompt, 8, temperature=temperature))
        assert drawn == write(model, 8)


def test_a_context_that_is_full_gives_one_token_more():
    model, full = tiny_llama(), [1, 2] * 8
    assert len(list(model.generate(full, 1))) == len(list(model.generate(full[:-1], 2))) - 1 == 1
    assert list(model.generate(full, 1)) == list(model.generate(full, 1, new_cache=None))
    with pytest.raises(ValueError, match="n must be an integer from 1 to 1, got 2"):
        model.generate(full, 2)
    with pytest.raises(ValueError, match="ids are 17 tokens, .* at most 16: leave"):
        model.generate([*full, 1], 1)
