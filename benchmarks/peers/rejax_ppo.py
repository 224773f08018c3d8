"""rejax's PPO on CartPole-v1, the whole training in one program: compile seconds and environment steps per second, as JSON.

python rejax_ppo.py NUM_ENVS NUM_STEPS [SEEDS [WIDTH [ROLLOUT_LENGTH]]]      with more than one seed, vmapped over seeds
"""

import json
import resource
import sys
import time

import jax
from rejax import get_algo

SETTINGS = {
    "env": "CartPole-v1",
    "num_epochs": 4,
    "num_minibatches": 4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_eps": 0.2,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "learning_rate": 2.5e-4,
}


def main(num_envs: int, num_steps: int, seeds: int = 1, width: int = 64, rollout_length: int = 128) -> None:
    settings = SETTINGS | {"num_steps": rollout_length}
    settings["agent_kwargs"] = {"activation": "tanh", "hidden_layer_sizes": (width, width)}
    algorithm = get_algo("ppo").create(**settings, num_envs=num_envs, total_timesteps=num_steps, eval_freq=num_steps)
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    key = jax.random.PRNGKey(0)
    train, argument = (algorithm.train, key) if seeds == 1 else (jax.vmap(algorithm.train), jax.random.split(key, seeds))
    begin = time.perf_counter()
    program = jax.jit(train).lower(argument).compile()
    compiled = time.perf_counter() - begin
    rates = []
    for _ in range(2):
        begin = time.perf_counter()
        jax.block_until_ready(program(argument))
        rates.append(seeds * num_steps / (time.perf_counter() - begin))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"rates": rates, "compile_seconds": compiled, "memory_mb": memory}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
