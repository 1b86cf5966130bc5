"""Work shared by processes: if one fails, no other waits for it."""

from types import SimpleNamespace

import torch

from diffusion_lab.system.lightning import run_on_all_ranks


def _process(rank, store, answers):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )

    def work():
        if rank == 1:
            raise ValueError("out of memory")
        return 7

    try:
        run_on_all_ranks(SimpleNamespace(world_size=2), work)
    except Exception as error:
        answers.put((rank, repr(error)))


def test_one_process_that_fails_does_not_leave_the_other_waiting(tmp_path):
    context = torch.multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(target=_process, args=(rank, tmp_path / "store", answers))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    errors = dict(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert errors[1] == "ValueError('out of memory')"
    assert errors[0] == "RuntimeError('the process of rank 1 failed: ValueError: out of memory')"
