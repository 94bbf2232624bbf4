#!/usr/bin/env python3
"""The workloads of `hdlua -m bench` in PyTorch (1.13 or later): the peer that it is measured beside.

    bench_peer.py --child unet32 --threads 1        time one workload here and print a line `RESULT {record}`
    bench_peer.py --export text --steps 10 --out F  run steps; write weights, inputs, draws and losses to F, a
                                                    safetensors file, under hdlua's names, for `hdlua -m bench --verify`

How a result is taken is said in lib/hd/tool/bench/timing.lua, the networks in models.lua, the single operations in
operations.lua beside it; shapes, operations and untimed parts here are the same. scripts/bench_peer.sh runs this at
PyTorch's best setting; what depends on the workload is chosen here: channels_last for seed_model alone, and the fastest
of the optimizer's implementations.
"""
import argparse
import json
import math
import os
import resource
import statistics
import struct
import subprocess
import sys
import time

WIDTHS = (3, 64, 128, 256, 3)  # of seed_model
TIME_DIM, TIME_EMBED = 64, 256
TEN_MILLION = 10_000_000


def image_unet(batch, width, size, layers, groups):
    return dict(dims=2, planes=3, size=size, batch=batch, channels=(width, 2 * width, 2 * width), layers=layers,
                groups=groups, kernel=3, down=2, attention=True, lr=2e-4, ema=0.999)


UNETS = {
    "unet32": image_unet(16, 64, 32, 2, 32),
    "sample32": image_unet(16, 64, 32, 2, 32),
    "unet32_tiny": image_unet(32, 32, 32, 1, 8),
    "audio1d": dict(dims=1, planes=1, size=8192, batch=16, channels=(32, 64, 128, 128), layers=1, groups=8, kernel=5,
                    down=4, attention=False, lr=2e-4, ema=None),
}


# Networks -------------------------------------------------------------------------------------------------------
# Modules carry the names that hdlua's have, so that weights go over by name.

def networks():
    import torch
    from torch import nn
    F = nn.functional

    def conv(u, a, b, kernel=None, stride=1, padding=None):
        kernel = kernel or u["kernel"]
        kind = nn.Conv1d if u["dims"] == 1 else nn.Conv2d
        return kind(a, b, kernel, stride=stride, padding=kernel // 2 if padding is None else padding)

    def attend(q, k, v):  # [n, heads, t, d] each
        if hasattr(F, "scaled_dot_product_attention"):
            return F.scaled_dot_product_attention(q, k, v)
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), -1) @ v

    class TimeEmbedding(nn.Module):
        def __init__(self, out=TIME_EMBED):
            super().__init__()
            half = TIME_DIM // 2
            self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(half) / half), False)
            self.linear_1, self.linear_2 = nn.Linear(TIME_DIM, TIME_EMBED), nn.Linear(TIME_EMBED, out)

        def forward(self, t):
            a = t.float()[:, None] * self.frequencies
            return self.linear_2(F.silu(self.linear_1(torch.cat([a.sin(), a.cos()], 1))))

    class ResBlock(nn.Module):
        def __init__(self, u, a, b):
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(u["groups"], a), conv(u, a, b)
            self.time_emb_proj = nn.Linear(TIME_EMBED, b)
            self.norm2, self.conv2 = nn.GroupNorm(u["groups"], b), conv(u, b, b)
            self.conv_shortcut = conv(u, a, b, 1) if a != b else None

        def forward(self, x, e):
            h = self.conv1(F.silu(self.norm1(x)))
            e = self.time_emb_proj(e)
            h = self.conv2(F.silu(self.norm2(h + e.view(e.shape + (1,) * (x.dim() - 2)))))
            return (self.conv_shortcut(x) if self.conv_shortcut else x) + h

    class Attention(nn.Module):
        def __init__(self, u, c):
            super().__init__()
            self.group_norm = nn.GroupNorm(u["groups"], c)
            self.to_qkv, self.to_out = conv(u, c, 3 * c, 1), nn.ModuleList([conv(u, c, c, 1)])

        def forward(self, x):
            n, c = x.shape[:2]
            q, k, v = self.to_qkv(self.group_norm(x)).view(n, 3, 4, c // 4, -1).transpose(-1, -2).unbind(1)
            return x + self.to_out[0](attend(q, k, v).transpose(-1, -2).reshape(x.shape))

    class Sampler(nn.Module):  # a convolution that changes the extents, under the name diffusers gives it
        def __init__(self, layer):
            super().__init__()
            self.conv = layer

    class Level(nn.Module):
        def __init__(self, u, pairs, attention):
            super().__init__()
            self.resnets = nn.ModuleList([ResBlock(u, a, b) for a, b in pairs])
            self.attentions = nn.ModuleList([Attention(u, b) for _, b in pairs] if attention else [])

        def step(self, i, x, e):
            x = self.resnets[i](x, e)
            return self.attentions[i](x) if self.attentions else x

    class UNet(nn.Module):
        def __init__(self, u):
            super().__init__()
            widths, layers, down = u["channels"], u["layers"], u["down"]
            self.scale = float(down)
            self.time_embedding = TimeEmbedding()
            self.conv_in = conv(u, u["planes"], widths[0])
            c, skips = widths[0], [widths[0]]
            self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
            for i, width in enumerate(widths):
                level = Level(u, [(c if k == 0 else width, width) for k in range(layers)], u["attention"] and i == 1)
                c = width
                skips += [c] * layers
                if i < len(widths) - 1:
                    kernel = 3 if down == 2 else down
                    level.downsamplers = nn.ModuleList(
                        [Sampler(conv(u, c, c, kernel, stride=down, padding=(kernel - down + 1) // 2))])
                    skips.append(c)
                self.down_blocks.append(level)
            self.mid_block = Level(u, [(c, c), (c, c)], False)
            if u["attention"]:
                self.mid_block.attentions = nn.ModuleList([Attention(u, c)])
            for i in reversed(range(len(widths))):
                pairs = []
                for _ in range(layers + 1):
                    pairs.append((c + skips.pop(), widths[i]))
                    c = widths[i]
                level = Level(u, pairs, u["attention"] and i == 1)
                if i > 0:
                    level.upsamplers = nn.ModuleList([Sampler(conv(u, c, c))])
                self.up_blocks.append(level)
            self.conv_norm_out, self.conv_out = nn.GroupNorm(u["groups"], c), conv(u, c, u["planes"])

        def forward(self, x, t):
            e = F.silu(self.time_embedding(t))
            x = self.conv_in(x)
            skips = [x]
            for level in self.down_blocks:
                for i in range(len(level.resnets)):
                    x = level.step(i, x, e)
                    skips.append(x)
                if hasattr(level, "downsamplers"):
                    x = level.downsamplers[0].conv(x)
                    skips.append(x)
            x = self.mid_block.resnets[0](x, e)
            if self.mid_block.attentions:
                x = self.mid_block.attentions[0](x)
            x = self.mid_block.resnets[1](x, e)
            for level in self.up_blocks:
                for i in range(len(level.resnets)):
                    x = level.step(i, torch.cat([x, skips.pop()], 1), e)
                if hasattr(level, "upsamplers"):
                    x = level.upsamplers[0].conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))
            return self.conv_out(F.silu(self.conv_norm_out(x)))

    class TextAttention(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.to_qkv, self.to_out = nn.Linear(d, 3 * d), nn.ModuleList([nn.Linear(d, d)])

        def forward(self, x):
            n, t, d = x.shape
            q, k, v = self.to_qkv(x).view(n, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
            return self.to_out[0](attend(q, k, v).transpose(1, 2).reshape(n, t, d))

    class TextBlock(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.norm1, self.attn, self.norm2 = nn.LayerNorm(d), TextAttention(d), nn.LayerNorm(d)
            self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    class Transformer(nn.Module):
        def __init__(self, length=128, d=256, vocabulary=256):
            super().__init__()
            self.token_embedding = nn.Embedding(vocabulary, d)
            self.position_embedding = nn.Parameter(torch.randn(length, d) * 0.02)
            self.time_embedding = TimeEmbedding(d)
            self.blocks = nn.ModuleList([TextBlock(d) for _ in range(4)])
            self.norm_out, self.proj_out = nn.LayerNorm(d), nn.Linear(d, vocabulary)

        def forward(self, ids, t):
            x = self.token_embedding(ids) + self.position_embedding + self.time_embedding(t)[:, None]
            for block in self.blocks:
                x = block(x)
            return self.proj_out(self.norm_out(x))

    def plain():
        layers = []
        for a, b in zip(WIDTHS, WIDTHS[1:]):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return argparse.Namespace(UNet=UNet, Transformer=Transformer, plain=plain)


# Models ---------------------------------------------------------------------------------------------------------

def products():  # alpha-bar of the linear schedule
    import torch
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def find_unet(name):
    if name in UNETS:
        return UNETS[name]
    parts = name.split("_")
    if len(parts) == 4 and parts[0] == "unet":
        return image_unet(*map(int, parts[1:]), 1, 8)
    return None


class Model:
    """net, fixed data, draw() for what is new in each step, loss(draws)."""

    def __init__(self, name):
        import torch
        F, nets, u = torch.nn.functional, networks(), find_unet(name)
        self.ema, self.adam = None, torch.optim.AdamW
        if u:
            self.net, self.lr, self.ema = nets.UNet(u), u["lr"], u["ema"]
            n, extents = u["batch"], (u["size"],) * u["dims"]
            self.data = torch.rand(n, u["planes"], *extents) * 2 - 1
            abar, ones = products(), (n,) + (1,) * (u["dims"] + 1)
            alphas, sigmas = abar.sqrt().float(), (1 - abar).sqrt().float()
            self.draw = lambda: dict(t=torch.randint(0, 1000, (n,)), eps=torch.randn_like(self.data))
            self.loss = lambda d: F.mse_loss(
                self.net(alphas[d["t"]].view(ones) * self.data + sigmas[d["t"]].view(ones) * d["eps"], d["t"]), d["eps"])
        elif name == "text":
            self.net, self.lr = nets.Transformer(), 3e-4
            self.data = torch.randint(0, 255, (32, 128))

            def draw():
                t = torch.randint(1, 1001, (32,))
                return dict(t=t, hidden=torch.rand(32, 128) < (t.float() / 1000)[:, None])

            self.draw = draw
            self.loss = lambda d: F.cross_entropy(
                self.net(self.data.masked_fill(d["hidden"], 255), d["t"]).view(-1, 256), self.data.view(-1))
        elif name == "seed_model":
            self.net, self.lr, self.adam = nets.plain().to(memory_format=torch.channels_last), 1e-3, torch.optim.Adam
            self.data = torch.rand(64, 3, 64, 64).contiguous(memory_format=torch.channels_last)
            self.draw = lambda: dict(eps=torch.randn_like(self.data))
            self.loss = lambda d: F.mse_loss(self.net(self.data + 0.1 * d["eps"]), self.data)
        else:
            raise SystemExit("bench_peer: no workload '%s'" % name)
        self.name = name

    def step(self, draws=None):
        """A function that makes one train step and returns its loss; draws() is in place of the model's own."""
        import torch
        params, draws = list(self.net.parameters()), draws or self.draw
        optimizer = fastest(self.adam, params, self.lr)
        average = [p.detach().clone() for p in params] if self.ema else None

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = self.loss(draws())
            loss.backward()
            optimizer.step()
            if average:
                with torch.no_grad():
                    if hasattr(torch, "_foreach_lerp_"):
                        torch._foreach_lerp_(average, params, 1 - self.ema)
                    else:
                        for a, p in zip(average, params):
                            a.lerp_(p, 1 - self.ema)
            return loss.detach()

        return step


def fastest(kind, params, lr):
    """The fused optimizer where there is one for the CPU, else a loop over the tensors."""
    try:
        import torch
        if tuple(int(x) for x in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 4):
            return kind(params, lr=lr, fused=True)
    except (TypeError, RuntimeError):
        pass
    return kind(params, lr=lr, foreach=False)


def sampling(model):
    """20 DDIM steps from 999 to 49 without gradients; a warm-up is one step."""
    import torch
    abar, times, net = products().tolist(), list(range(999, -1, -50)), model.net.eval()

    def sample(count=len(times)):
        with torch.inference_mode():
            x = torch.randn(16, 3, 32, 32)
            for i, t in enumerate(times[:count]):
                a, following = abar[t], abar[times[i + 1]] if i + 1 < len(times) else 1.0
                eps = net(x, torch.full((16,), t))
                x0 = ((x - math.sqrt(1 - a) * eps) / math.sqrt(a)).clamp(-1, 1)
                x = math.sqrt(following) * x0 + math.sqrt(1 - following) * eps
            return x

    return sample, lambda: sample(1)


# Single operations ----------------------------------------------------------------------------------------------

def convolutions(name):
    import torch
    n, a, b, h, k, s = map(int, name.split("_")[1:])
    out, pad = (h + 2 * (k // 2) - k) // s + 1, [k // 2] * 2
    x, w, dy = torch.randn(n, a, h, h), torch.randn(b, a, k, k), torch.randn(n, b, out, out)

    def backward(mask):
        return torch.ops.aten.convolution_backward(dy, x, w, None, [s, s], pad, [1, 1], False, [0, 0], 1, mask)

    yield name + "/fwd", torch.no_grad()(lambda: torch.conv2d(x, w, None, [s, s], pad))
    yield name + "/bwd_data", lambda: backward([True, False, False])
    yield name + "/bwd_weight", lambda: backward([False, True, False])


def adam_steps(kind, tensors):
    """The same step in each of PyTorch's implementations: the fastest is the peer."""
    import torch
    params = [torch.randn(TEN_MILLION // tensors, requires_grad=True) for _ in range(tensors)]
    for p in params:
        p.grad = torch.randn_like(p)
    for extra in (dict(foreach=False), dict(foreach=True), dict(fused=True)):
        try:
            optimizer = kind(params, lr=1e-3, **extra)
            optimizer.step()
            yield optimizer.step
        except (TypeError, RuntimeError):  # not in this version, or not on the CPU
            pass


def operations(name):
    """(name, step) of each thing that is timed; more than one step of a name: the fastest counts."""
    import torch
    F = torch.nn.functional
    if name.startswith("conv_"):
        yield from convolutions(name)
    elif name.startswith("gn_silu"):
        x, w, b = torch.randn(16, 128, 32, 32), torch.ones(128), torch.zeros(128)
        dy, inputs = torch.randn_like(x), (x, w, b)
        forward = lambda: F.silu(F.group_norm(x, 32, w, b))
        if name.endswith("bwd"):
            for i in inputs:
                i.requires_grad_()
            yield name, lambda: torch.autograd.grad(forward(), inputs, dy)
        else:
            yield name, torch.no_grad()(forward)
    elif name.startswith("softmax"):
        x, dy = torch.randn(64, 256, 256), torch.randn(64, 256, 256)
        if name.endswith("bwd"):
            x.requires_grad_()
            yield name, lambda: torch.autograd.grad(torch.softmax(x, -1), x, dy)
        else:
            yield name, torch.no_grad()(lambda: torch.softmax(x, -1))
    elif name in ("adam", "adamw_10M"):
        for step in adam_steps(*((torch.optim.Adam, 100) if name == "adam" else (torch.optim.AdamW, 1))):
            yield name, step
    elif name.startswith("sgemm_"):
        n = int(name.split("_")[1])
        a, b, c = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        yield name, lambda: torch.mm(a, b, out=c)
    elif name == "randn_10M_alloc":
        yield name, lambda: torch.randn(TEN_MILLION)
    elif name in ("randn_10M", "sum_10M"):
        x = torch.randn(TEN_MILLION)
        yield name, x.normal_ if name == "randn_10M" else lambda: x.sum().item()


# Taking results -------------------------------------------------------------------------------------------------

def measure(step, seconds, most, warm=None):
    for _ in range(3):
        (warm or step)()
    times, start = [], time.perf_counter()
    while True:
        before = time.perf_counter()
        step()
        now = time.perf_counter()
        times.append(now - before)
        if len(times) >= 10 and now - start >= seconds or len(times) >= 3 and now - start >= most:
            return times


def report(name, args, times, **fields):
    record = dict(name=name, threads=args.threads, ms_median=round(statistics.median(times) * 1e3, 4),
                  ms_min=round(min(times) * 1e3, 4), n=len(times))
    record["peak_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    record.update(fields)
    print("RESULT " + json.dumps(record), flush=True)


def start_up(name, args):
    this = [sys.executable, os.path.abspath(__file__), "--threads", str(args.threads), "--once", "--child", "unet32_tiny"]
    command, count = {
        "startup_empty": ([sys.executable, "-c", "pass"], 20),
        "startup": ([sys.executable, "-c", "import torch"], 5),
        "startup_step": (this, 5),
    }[name]
    times, peak = [], 0
    for i in range(count + 1):
        before = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        times.append(time.perf_counter() - before)
        child.returncode, peak = status, max(peak, usage.ru_maxrss / 1024)
        if status:
            raise SystemExit("bench_peer: %s failed" % command)
    report(name, args, times[1:], peak_rss_mib=round(peak, 1))


def run_child(args):
    name = args.child
    if name.startswith("startup"):
        return start_up(name, args)
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    best = {}
    for part, step in operations(name):
        times = measure(step, args.seconds / 2, 5 * args.seconds)
        if part not in best or statistics.median(times) < statistics.median(best[part]):
            best[part] = times
    for part, times in best.items():
        report(part, args, times, torch=torch.__version__)
    if best:
        return
    model = Model(name)
    step, warm = sampling(model) if name == "sample32" else (model.step(), None)
    if args.once:
        return step()
    times = measure(step, args.seconds, 5 * args.seconds, warm)
    report(name, args, times, torch=torch.__version__, params=sum(p.numel() for p in model.net.parameters()))


# Export ---------------------------------------------------------------------------------------------------------

TYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "bool": "BOOL"}


def write_safetensors(path, tensors):
    """8 bytes of length, a JSON header {name: type, shape, offsets}, the bytes."""
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = dict(dtype=TYPES[str(array.dtype)], shape=list(array.shape),
                            data_offsets=[offset, offset + array.nbytes])
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            f.write(array.tobytes())


def export(args):
    """Counting starts from 1 in hdlua: tokens and the times of U-Nets, which choose a row of a table, go up by 1."""
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model, out = Model(args.export), {}
    is_unet = args.export != "text"

    def put(name, x):
        # row-major; the 1x1 convolutions of an attention are linear layers in hdlua
        x = x.detach().clone(memory_format=torch.contiguous_format)
        if ".to_qkv.weight" in name or ".to_out.0.weight" in name:
            x = x.flatten(1)
        out[name] = x.numpy()

    for name, p in model.net.named_parameters():
        put("weight." + name, p)
    put("data", model.data if is_unet else model.data + 1)
    drawn = [model.draw() for _ in range(args.steps)]
    for i, d in enumerate(drawn):
        for name, x in d.items():
            put("step.%d.%s" % (i + 1, name), x + 1 if name == "t" and is_unet else x)
    draws = iter(drawn)
    step = model.step(lambda: next(draws))
    put("losses", torch.stack([step() for _ in drawn]).double())
    write_safetensors(args.out, out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--child", metavar="NAME")
    p.add_argument("--export", metavar="NAME")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", metavar="FILE")
    p.add_argument("--once", action="store_true", help="with --child: one step, untimed")
    args = p.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is loaded
        os.environ[name] = str(args.threads)
    if args.export:
        export(args)
    elif args.child:
        run_child(args)
    else:
        p.error("--child or --export is needed")


if __name__ == "__main__":
    main()
