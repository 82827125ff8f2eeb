import copy
import io
import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from premortem.core.errors import ConfigError
from premortem.stages.train.ema import WeightEMA
from premortem.stages.train.hrm import (
    HRM,
    IGNORED,
    PAPER_SUDOKU,
    Batch,
    Carry,
    DeepSupervision,
    Halting,
    HRMConfig,
    PlainTransformer,
    act_loss,
    evaluate,
    nearest_solutions,
    number_slots,
    sudoku_config,
    token_losses,
)
from premortem.stages.train.hrm.layers import truncated_normal
from premortem.stages.train.hrm.loss import stablemax_log_probabilities
from premortem.stages.train.sudoku import AugmentedBatches, SudokuConfig, make_split

TINY = HRMConfig(
    seq_len=16,
    vocab_size=5,
    hidden_size=32,
    num_heads=2,
    expansion=2,
    width_multiple=16,
    high_layers=1,
    low_layers=1,
    positions="learned",
    halting=Halting(max_segments=4),
)
DATA = SudokuConfig(size=4, puzzles_per_grid=2, clues=(0, 12), held_out_puzzles_per_grid=1)


@pytest.fixture(scope="module")
def stream() -> AugmentedBatches:
    return make_split(DATA).batches(16, seed=0)


def batch_at(stream: AugmentedBatches, step: int) -> Batch:
    puzzles, solutions = stream.batch(step)
    return {"inputs": torch.from_numpy(puzzles), "labels": torch.from_numpy(solutions)}


def tiny_model(**changes: object) -> HRM:
    torch.manual_seed(0)
    return HRM(replace(TINY, **changes))


def optimizer_of(model: torch.nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("config", "low", "high"),
    [
        (sudoku_config(4), 0.29e6, 0.31e6),
        (sudoku_config(6), 0.55e6, 0.58e6),
        (sudoku_config(9), 3.1e6, 3.3e6),
        (PAPER_SUDOKU, 27.0e6, 27.5e6),
    ],
)
def test_named_sizes_have_the_parameter_counts_they_promise(config, low, high) -> None:
    model = HRM(config)
    assert low <= model.num_parameters <= high


def test_paper_size_counts_blocks_exactly() -> None:
    model = HRM(PAPER_SUDOKU)
    attention, mlp = 4 * 512 * 512, 3 * 512 * 1536
    rest = 10 * 512 + 512 + 10 * 512 + 2 * 512 + 2  # tokens, prefix, token head, Q head
    assert model.num_parameters == 8 * (attention + mlp) + rest


def test_truncated_normal_has_the_wanted_deviation_and_no_tail() -> None:
    torch.manual_seed(0)
    values = truncated_normal((400, 400), 0.5)
    assert values.std().item() == pytest.approx(0.5, rel=0.01)
    assert values.abs().max().item() <= 2 * 0.5 / 0.8796 + 1e-6


def test_start_states_are_buffers_that_no_optimizer_moves() -> None:
    model = tiny_model()
    assert {"high_start", "low_start"} <= model.state_dict().keys()
    assert not {"high_start", "low_start"} & dict(model.named_parameters()).keys()


def reference_one_step_gradient(model: HRM, carry: Carry) -> Tensor:
    """Token logits with the graph cut by hand before the last L and H update."""
    x = model.embedding(carry.inputs)
    z_high, z_low = carry.z_high, carry.z_low
    updates = [(cycle, step) for cycle in range(model.config.cycles) for step in range(model.config.steps_per_cycle)]
    for cycle, step in updates:
        is_last = (cycle, step) == updates[-1]
        z_low = model.low(z_low, z_high + x, model.rotary)
        z_low = z_low if is_last else z_low.detach()
        if step == model.config.steps_per_cycle - 1:
            z_high = model.high(z_high, z_low, model.rotary)
            z_high = z_high if is_last else z_high.detach()
    return model.token_head(z_high)[:, 1:]


@pytest.mark.parametrize(("cycles", "steps_per_cycle"), [(1, 1), (2, 2), (3, 2)])
def test_gradient_flows_through_the_last_update_of_each_module_only(stream, cycles, steps_per_cycle) -> None:
    model = tiny_model(cycles=cycles, steps_per_cycle=steps_per_cycle)
    batch = batch_at(stream, 0)
    carry = model.admit(model.initial_carry(batch), batch)
    uses = {"high": 0, "low": 0}
    for name in uses:
        module = getattr(model, name)
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: uses.__setitem__(name, uses[name] + output.requires_grad)
        )
    segment = model.segment(carry.z_high, carry.z_low, carry.inputs)
    assert uses == {"high": 1, "low": 1}
    found = torch.autograd.grad(segment.logits.square().sum(), list(model.low.parameters()))
    expected_logits = reference_one_step_gradient(model, carry)
    expected = torch.autograd.grad(expected_logits.square().sum(), list(model.low.parameters()))
    assert torch.equal(segment.logits, expected_logits)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_gradient_of_a_whole_segment_is_that_of_all_its_updates(stream) -> None:
    last, whole = tiny_model(), tiny_model(gradient="segment")
    whole.load_state_dict(last.state_dict())
    batch = batch_at(stream, 0)
    carry = last.admit(last.initial_carry(batch), batch)
    by_hand, z_high, z_low = last.embedding(carry.inputs), carry.z_high, carry.z_low
    for _ in range(TINY.cycles):
        for _ in range(TINY.steps_per_cycle):
            z_low = last.low(z_low, z_high + by_hand, last.rotary)
        z_high = last.high(z_high, z_low, last.rotary)
    segments = [model.segment(carry.z_high, carry.z_low, carry.inputs) for model in (last, whole)]
    logits = [segments[0].logits, segments[1].logits, last.token_head(z_high)[:, 1:]]
    assert torch.equal(logits[0], logits[1])
    one_step, found, expected = (
        torch.autograd.grad(given.square().sum(), model.low.blocks[0].mlp.down.weight)[0]
        for given, model in zip(logits, (last, whole, last), strict=True)
    )
    assert torch.equal(found, expected)
    assert not torch.allclose(one_step, found)
    assert not segments[1].z_high.requires_grad


def test_the_carry_is_detached_between_segments(stream) -> None:
    model = tiny_model()
    carry, loss, _ = act_loss(model, model.initial_carry(batch_at(stream, 0)), batch_at(stream, 0))
    assert loss.requires_grad
    assert not any(getattr(carry, item.name).requires_grad for item in fields(carry))


def run_segments(model: HRM, stream: AugmentedBatches, count: int) -> list[Carry]:
    carry = model.initial_carry(batch_at(stream, 0))
    carries = []
    for step in range(count):
        carry, _, _ = act_loss(model, carry, batch_at(stream, step))
        carries.append(carry)
    return carries


def test_a_halted_slot_takes_a_new_puzzle_and_others_keep_theirs(stream) -> None:
    model = tiny_model()
    first, second = batch_at(stream, 0), batch_at(stream, 1)
    carry, _, _ = act_loss(model, model.initial_carry(first), first)
    halted = torch.zeros(16, dtype=torch.bool)
    halted[3] = True
    after = model.admit(replace(carry, halted=halted), second)
    assert torch.equal(after.inputs[3], second["inputs"][3])
    assert torch.equal(after.inputs[4], first["inputs"][4])
    assert torch.equal(after.z_high[3], model.high_start.expand(17, -1))
    assert torch.equal(after.z_high[4], carry.z_high[4])
    assert (after.steps[3], after.steps[4]) == (0, 1)


def test_a_threshold_of_infinity_never_halts_before_the_last_segment(stream) -> None:
    model = tiny_model()
    model.halting = Halting(max_segments=4, threshold=math.inf)
    carries = run_segments(model, stream, 8)
    assert [int(c.halted.sum()) for c in carries] == [0, 0, 0, 16, 0, 0, 0, 16]
    report = evaluate(model, batch_at(stream, 0))
    assert (report.mean_halt_segment, report.never_halted, report.halted_at_first) == (4.0, 1.0, 0.0)


def test_a_threshold_of_minus_infinity_halts_at_once(stream) -> None:
    model = tiny_model()
    model.halting = Halting(max_segments=4, threshold=-math.inf, exploration=0.0)
    assert [int(c.halted.sum()) for c in run_segments(model, stream, 3)] == [16, 16, 16]
    report = evaluate(model, batch_at(stream, 0))
    assert (report.mean_halt_segment, report.never_halted, report.halted_at_first) == (1.0, 0.0, 1.0)


def test_exploration_holds_puzzles_for_their_drawn_minimum(stream) -> None:
    model = tiny_model()
    model.halting = Halting(max_segments=4, threshold=-math.inf, exploration=1.0)
    torch.manual_seed(0)
    carries = run_segments(model, stream, 4)
    assert not carries[0].halted.any()
    assert set(carries[0].min_steps.tolist()) == {2, 3, 4}
    second = carries[1]
    assert torch.equal(second.halted, second.min_steps == 2)


def test_evaluation_mode_does_not_explore(stream) -> None:
    model = tiny_model().eval()
    model.halting = Halting(max_segments=4, exploration=1.0)
    assert run_segments(model, stream, 1)[0].min_steps.tolist() == [0] * 16


def test_a_model_sure_of_its_answer_halts_and_one_sure_to_go_on_does_not(stream) -> None:
    model = tiny_model()
    for bias, segments in (((5.0, -5.0), 1.0), ((-5.0, 5.0), 4.0)):
        with torch.no_grad():
            model.q_head.bias.copy_(torch.tensor(bias))
        assert evaluate(model, batch_at(stream, 0)).mean_halt_segment == segments


def test_the_target_of_going_on_comes_from_the_next_segment(stream) -> None:
    model = tiny_model()
    torch.nn.init.normal_(model.q_head.weight)
    torch.nn.init.zeros_(model.q_head.bias)
    batch = batch_at(stream, 0)
    carry, _ = model(model.initial_carry(batch), batch)
    following = model.segment(carry.z_high, carry.z_low, carry.inputs)
    best = torch.sigmoid(torch.maximum(following.q_halt, following.q_continue))
    assert torch.equal(model.continue_target(carry), best)
    at_end = replace(carry, steps=torch.full_like(carry.steps, 4))
    assert torch.equal(model.continue_target(at_end), torch.sigmoid(following.q_halt))
    assert not torch.equal(best, torch.sigmoid(following.q_halt))


def train(model: HRM, carry: Carry, stream: AugmentedBatches, steps: range, optimizer: torch.optim.AdamW) -> Carry:
    for step in steps:
        carry, loss, _ = act_loss(model, carry, batch_at(stream, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return carry


def test_a_run_resumed_from_a_saved_carry_is_bit_identical(stream) -> None:
    model = tiny_model(halting=Halting(max_segments=4, exploration=0.5))
    optimizer = optimizer_of(model)
    carry = train(model, model.initial_carry(batch_at(stream, 0)), stream, range(5), optimizer)
    file = io.BytesIO()
    bundle = [carry.state_dict(), model.state_dict(), optimizer.state_dict(), torch.get_rng_state()]
    torch.save(bundle, file)
    carry = train(model, carry, stream, range(5, 12), optimizer)

    file.seek(0)
    saved_carry, weights, moments, rng = torch.load(file)
    resumed = HRM(model.config)
    resumed.load_state_dict(weights)
    resumed_optimizer = optimizer_of(resumed)
    resumed_optimizer.load_state_dict(moments)
    torch.set_rng_state(rng)
    resumed_carry = train(resumed, Carry.from_state_dict(saved_carry), stream, range(5, 12), resumed_optimizer)
    assert same(carry.state_dict(), resumed_carry.state_dict())
    assert same(model.state_dict(), resumed.state_dict())


def test_a_run_resumed_without_its_carry_is_another_run(stream) -> None:
    model = tiny_model()
    carry = train(model, model.initial_carry(batch_at(stream, 0)), stream, range(3), optimizer_of(model))
    other = copy.deepcopy(model)
    train(model, carry, stream, range(3, 6), optimizer_of(model))
    train(other, other.initial_carry(batch_at(stream, 3)), stream, range(3, 6), optimizer_of(other))
    assert not same(model.state_dict(), other.state_dict())


def test_weight_averages_follow_their_definition_and_swap_for_evaluation(stream) -> None:
    model = tiny_model()
    ema, optimizer = WeightEMA(model, decay=0.9), optimizer_of(model)
    expected = model.token_head.weight.detach().clone()
    carry = model.initial_carry(batch_at(stream, 0))
    for step in range(3):
        carry = train(model, carry, stream, range(step, step + 1), optimizer)
        ema.update(model)
        expected = 0.9 * expected + 0.1 * model.token_head.weight.detach()
    trained = model.token_head.weight.detach().clone()
    with ema.swapped_in(model):
        evaluate(model, batch_at(stream, 0))
        assert torch.allclose(model.token_head.weight, expected, atol=1e-6)
    assert torch.equal(model.token_head.weight, trained)


@pytest.mark.parametrize("loss", ["stablemax", "softmax"])
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_loss_falls_well_below_chance_in_a_tiny_training(stream, loss, positions) -> None:
    model = tiny_model(loss=loss, positions=positions)
    optimizer = optimizer_of(model)
    carry = model.initial_carry(batch_at(stream, 0))
    tokens = []
    for step in range(80):
        carry, total, metrics = act_loss(model, carry, batch_at(stream, step))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        tokens.append(metrics["token_loss"].item())
    assert sum(tokens[-10:]) / 10 < 0.8 * sum(tokens[:5]) / 5
    assert sum(tokens[-10:]) / 10 < 0.85 * math.log(4)


def test_stablemax_is_a_distribution_with_finite_gradient_everywhere() -> None:
    logits = torch.tensor([[-1e6, -1.0, 0.0, 1.0, 1e6]], requires_grad=True)
    logs = stablemax_log_probabilities(logits)
    assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    logs.sum().backward()
    assert torch.isfinite(logits.grad).all()
    two = stablemax_log_probabilities(torch.tensor([1.0, -1.0])).exp()
    assert two.tolist() == pytest.approx([2 / 2.5, 0.5 / 2.5])


def test_softmax_loss_agrees_with_torch_and_ignores_marked_cells() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 16, 5), torch.randint(0, 5, (3, 16))
    labels[:, 10:] = IGNORED
    found = token_losses(logits, labels, "softmax").mean()
    expected = torch.nn.functional.cross_entropy(logits[:, :10].reshape(-1, 5), labels[:, :10].reshape(-1))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_deep_supervision_keeps_its_carry_until_a_step_is_committed(stream) -> None:
    model = tiny_model(halting=Halting(max_segments=4, exploration=0.0))
    supervision = DeepSupervision(model, batch_at(stream, 0))
    before = supervision.state_dict()
    supervision(model, batch_at(stream, 0))
    assert same(supervision.state_dict(), before)
    supervision.discard()
    supervision.commit()
    assert same(supervision.state_dict(), before)
    first = supervision(model, batch_at(stream, 0))
    supervision.commit()
    assert not same(supervision.state_dict(), before)
    again = DeepSupervision(model, batch_at(stream, 0))
    again.load_state_dict(before)
    assert torch.equal(again(model, batch_at(stream, 0)), first)


def test_a_batch_split_by_slots_gives_the_loss_and_carry_of_the_whole(stream) -> None:
    model = tiny_model(halting=Halting(max_segments=4, exploration=0.0))
    batch = number_slots(batch_at(stream, 0))
    whole, split = DeepSupervision(model, batch), DeepSupervision(model, batch)
    total = whole(model, batch)
    halves = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 8), slice(8, 16))]
    parts = torch.stack([split(model, half) for half in halves])
    whole.commit()
    split.commit()
    assert parts.mean().item() == pytest.approx(total.item(), rel=1e-5)
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor.float(), split.state_dict()[name].float(), atol=1e-5)


def test_plain_transformer_has_the_weights_of_hrm_but_for_the_q_head() -> None:
    model, plain = tiny_model(), PlainTransformer(TINY)
    q_head = sum(p.numel() for p in model.q_head.parameters())
    assert sum(p.numel() for p in plain.parameters()) == model.num_parameters - q_head


def test_nearest_lookup_answers_with_the_solution_of_the_closest_training_puzzle(stream) -> None:
    train_set = batch_at(stream, 0)
    changed = train_set["inputs"][:4].clone()
    changed[:, 0] = 0
    assert torch.equal(nearest_solutions(train_set, train_set["inputs"][:4]), train_set["labels"][:4])
    assert nearest_solutions(train_set, changed).shape == (4, 16)


def test_evaluation_counts_solved_puzzles_and_restores_the_mode(stream) -> None:
    model = tiny_model().train()
    batch = batch_at(stream, 0)
    carry = model.admit(model.initial_carry(batch), batch)
    z_high, z_low = carry.z_high, carry.z_low
    for _ in range(4):
        segment = model.segment(z_high, z_low, batch["inputs"])
        z_high, z_low = segment.z_high, segment.z_low
    answers = segment.logits.argmax(-1).detach()
    labels = answers.clone()
    labels[8:, 0] = (labels[8:, 0] + 1) % 5
    report = evaluate(model, {"inputs": batch["inputs"], "labels": labels}, batch_size=5)
    assert report.exact_accuracy == 0.5
    assert report.cell_accuracy == pytest.approx((8 + 8 * 15 / 16) / 16, abs=1e-6)
    assert report.num_puzzles == 16
    assert model.training


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Halting(max_segments=0), "max_segments is 0"),
        (lambda: Halting(threshold=math.nan), "threshold is NaN"),
        (lambda: Halting(exploration=1.5), r"probability in \[0, 1\]"),
        (lambda: replace(TINY, num_heads=3), "over 3 heads"),
        (lambda: replace(TINY, cycles=0), "cycles is 0"),
        (lambda: sudoku_config(5), "expected one of"),
        (lambda: Carry.from_state_dict({"z_high": torch.zeros(1)}), "carry state with"),
        (lambda: evaluate(tiny_model(), {"inputs": torch.zeros(0, 16), "labels": torch.zeros(0, 16)}), "at least 1"),
    ],
)
def test_mistakes_are_named_with_what_was_expected(make, match) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_a_batch_of_another_size_than_the_carry_is_refused(stream) -> None:
    model = tiny_model()
    batch = batch_at(stream, 0)
    carry = model.initial_carry(batch)
    with pytest.raises(ConfigError, match="keep the batch size"):
        act_loss(model, carry, {name: tensor[:8] for name, tensor in batch.items()})


def test_a_segment_under_bfloat16_autocast_keeps_float32_states_and_finite_loss(stream) -> None:
    model = tiny_model(loss="stablemax")
    batch = batch_at(stream, 0)
    with torch.autocast("cpu", torch.bfloat16):
        carry, loss, _ = act_loss(model, model.initial_carry(batch), batch)
        carry, loss, _ = act_loss(model, carry, batch)
    loss.backward()
    assert carry.z_high.dtype == carry.z_low.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_poisoned_carry_stays_poisoned_until_its_puzzle_halts(stream) -> None:
    model = tiny_model(halting=Halting(max_segments=4, exploration=0.0))
    batch = batch_at(stream, 0)
    carry, _, _ = act_loss(model, model.initial_carry(batch), batch)
    poisoned = replace(carry, z_low=carry.z_low.index_fill(0, torch.tensor([2]), math.nan))
    after, loss, metrics = act_loss(model, poisoned, batch)
    assert torch.isnan(loss)
    assert torch.isnan(metrics["loss"])
    assert torch.isnan(after.z_high[2]).all()
    assert torch.isfinite(after.z_high[[0, 1, 3]]).all()
    fresh = model.admit(replace(after, halted=torch.ones_like(after.halted)), batch)
    assert torch.isfinite(fresh.z_high).all()
