"""Which process of a job this is, and what is said when the processes do not find each other.

Two processes train and paint together in test_train_command.py and in sample/test_sample_resuming.py.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from script_tools import ROOT, refusal, write_picture

from dreamstyler_jax.commands import train
from dreamstyler_jax.commands.cli import INTERRUPTED
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.processes import check_sharing, what_is_trained
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.hosts import local_devices, place_by

SLURM = {"SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
POD = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "t0,t1,t2,t3"}


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, None),
        ({"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "2"}, (0, 2)),
        (SLURM, (5, 8)),
        (OPEN_MPI, (1, 4)),
        (POD, (2, 4)),
        (POD | {"MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "1"}, (6, 12)),
        (SLURM | {"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "2"}, (0, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # a batch script, not one of its job's tasks
    ],
)
def test_the_environment_says_which_process_this_is(variables, place):
    assert place_by(variables) == place


@pytest.mark.parametrize("other", [{}, {"JAX_NUM_PROCESSES": "1"}, {"JAX_NUM_PROCESSES": "two"}])
def test_an_environment_that_contradicts_itself_is_refused(other):
    with pytest.raises(UserError, match="JAX_PROCESS_ID and JAX_NUM_PROCESSES in the environment should be a process"):
        place_by({"JAX_PROCESS_ID": "1", **other})


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        (POD | {"TPU_WORKER_ID": "x"}, "TPU_WORKER_ID in the environment should be a whole number, not 'x'"),
        (POD | {"TPU_WORKER_ID": "4"}, "TPU_WORKER_ID and TPU_WORKER_HOSTNAMES .* not 4 of 4"),
        (POD | {"MEGASCALE_NUM_SLICES": "x"}, "MEGASCALE_NUM_SLICES in the environment should be a whole number"),
        (POD | {"MEGASCALE_SLICE_ID": "-1"}, "MEGASCALE_SLICE_ID in the environment should be a whole number"),
        (SLURM | {"SLURM_NTASKS": "x"}, "SLURM_PROCID and SLURM_NTASKS .* not 5 of x"),
        (SLURM | {"SLURM_LOCALID": "x"}, "SLURM_LOCALID in the environment should be a whole number, not 'x'"),
        ({"JAX_LOCAL_DEVICE_IDS": "0,a"}, "JAX_LOCAL_DEVICE_IDS in the environment should .* 0 or 0,1, not '0,a'"),
    ],
)
def test_a_malformed_environment_is_named(variables, complaint):
    with pytest.raises(UserError, match=complaint):
        place_by(variables)
        local_devices(variables)


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({}, None),
        (POD, None),
        (SLURM, [1]),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [1]),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "3"}, [0]),
        (OPEN_MPI | {"JAX_LOCAL_DEVICE_IDS": "0,1"}, [0, 1]),
    ],
)
def test_a_process_that_a_job_started_has_its_own_gpu(variables, devices):
    assert local_devices(variables) == devices


MISTAKES = [
    (["--num_processes", 2], "num_processes: is for --distributed, which is not given"),
    (["--distributed", "--process_id", 1], "distributed: --coordinator_address and --num_processes missing: give"),
    (
        ["--distributed", "--coordinator_address", "a:1", "--num_processes", 2],
        "distributed: --process_id missing: give",
    ),
    (
        ["--distributed", "--coordinator_address", "here", "--num_processes", 2, "--process_id", 0],
        "coordinator_address: should read like 10.0.0.1:1234, not here",
    ),
    (
        ["--distributed", "--coordinator_address", "here:65536", "--num_processes", 2, "--process_id", 0],
        "coordinator_address: should read like 10.0.0.1:1234, not here:65536",
    ),
    (
        ["--distributed", "--coordinator_address", "a:1", "--num_processes", 2, "--process_id", 2],
        "process_id and num_processes should be a process, counted from 0, of so many, not 2 of 2",
    ),
    (["--distributed", "--separate"], "found no TPU pod, Slurm or Open MPI job, nor JAX_PROCESS_ID"),
    (["--distributed", "--separate", "--process_id", 1], "process_id and num_processes should be a process"),
    (["--distributed", "--separate", "--coordinator_address", "a:1"], "coordinator_address: processes that learn"),
]


@pytest.mark.parametrize(("more", "complaint"), MISTAKES)
def test_processes_that_cannot_join_say_why(more, complaint, tmp_path, capfd):
    line = refusal(capfd, train, "--images", write_picture(tmp_path / "a.png", 0), *more, "--output", tmp_path / "run")
    assert complaint in line
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused_on_several_hosts_and_slow_on_one(recwarn):
    for devices, styles, batch_size in [(1, 1, 7), (8, 1, 16), (4, 8, 3), (4, 0, 3)]:
        check_sharing(devices, styles, batch_size, joined=True)
        check_sharing(devices, styles, batch_size)
    assert not recwarn
    advice = "batch_size: 16 devices cannot share 24 samples; give a multiple of 16, such as 32"
    with pytest.raises(UserError, match=f"{advice}$"):
        check_sharing(16, 1, 24, joined=True)
    with pytest.warns(UserWarning, match=f"{advice}. Each computes all of them now"):
        check_sharing(16, 1, 24)


ALONE = """
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.hosts import Meeting, joined
try:
    with joined(Meeting()):
        pass
except UserError as error:
    print(error)
with joined(Meeting("127.0.0.1:9", 2, 1), patience=1):
    pass
"""


def test_a_process_that_waits_in_vain_says_so_and_ends():
    process = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, env=os.environ, text=True, capture_output=True, timeout=60
    )
    assert "distributed: found no TPU pod, Slurm or Open MPI job" in process.stdout
    waiting, error = process.stderr.splitlines()[-2:]
    assert waiting == "Waiting for the other processes at 127.0.0.1:9, at most 1 s"
    assert error.startswith("error: distributed: waited 1 s in vain for the other processes at 127.0.0.1:9: start all")
    assert process.returncode == 2


WAITING = """
from dreamstyler_jax.commands.cli import run_and_exit
from dreamstyler_jax.runtime.hosts import Meeting, joined
run_and_exit(lambda: joined(Meeting("127.0.0.1:9", 2, 1), patience=60).__enter__())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_waits_for_the_others_ends_at_the_first_signal(number):
    words, pipe = [sys.executable, "-c", WAITING], subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, env=os.environ, text=True, stdout=pipe, stderr=pipe) as process:
        assert process.stderr and process.stderr.readline().startswith("Waiting for the other processes")
        time.sleep(0.3)  # until it waits outside of Python
        process.send_signal(number)
        _, printed = process.communicate(timeout=20)
    assert process.returncode == INTERRUPTED
    assert printed.count("interrupted; to continue: ") == 1


def test_what_processes_must_share_are_contents_and_not_paths():
    metadata = {"model_hash": "m", "model_settings": "s", "image_hashes": ["a"], "prompts": ["a {}"]}
    config = TrainConfig(images=["a.png"], prompts=["a {}"])
    shared = what_is_trained(config, metadata)

    def changed(metadata, **options) -> list[str]:
        other = what_is_trained(dataclasses.replace(config, **options), metadata)
        return sorted(name for name in shared if shared[name] != other[name])

    assert changed(metadata, images=["b.png"], name="b", output="there", model="here", distributed=True) == []
    assert changed(metadata, learning_rate=0.1, seed=3, prompts=["b {}"]) == ["learning_rate", "prompts", "seed"]
    hashes = {"image_hashes": ["b"], "model_hash": "n", "init_style_hash": "i"}
    assert changed(metadata | hashes) == ["images", "init_style", "model"]
    assert changed(metadata | {"model_settings": "t"}) == ["model"]


TOGETHER = """
import sys
import numpy as np
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.hosts import Meeting, differing, follow, follows, from_the_first, joined, lead
number = int(sys.argv[2])
try:
    with joined(Meeting(sys.argv[1], 2, number), patience=60):
        print(differing({"seed": 0, "images": [number], "steps": 5, "prompts": [str(number)]}), flush=True)
        if follows():
            print("told", follow(), follow(), from_the_first(np.float32(number + 5)))
            raise UserError("mine")
        lead(3)
        lead(4)
        from_the_first(np.float32(number + 5))
        lead(1)
except UserError as error:
    print(error)
"""


def test_processes_do_what_the_first_says_until_one_of_them_stops():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, "-c", TOGETHER, address]
    both = [subprocess.Popen([*words, n], cwd=ROOT, env=os.environ, text=True, stdout=subprocess.PIPE) for n in "01"]
    first, other = (
        [line for line in process.communicate(timeout=100)[0].splitlines() if not line.startswith("[Gloo]")]
        for process in both
    )
    assert first.pop(0) == other.pop(0) == "['images', 'prompts']"
    assert first == ["another process of this job has stopped, its own message says why; start all of them again"]
    assert other == ["told 3 4 5.0", "mine"]
