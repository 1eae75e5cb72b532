import sys, torch
torch.set_num_threads(1)
c, k, st, g = map(int, sys.argv[1:5])
for o in (8, 16, 32):
  for _ in range(2):
    conv = torch.nn.Conv2d(c, o, k, stride=st, padding=k // 2, bias=False, groups=g).to(memory_format=torch.channels_last)
    x = torch.rand(64, c, 64, 64).to(memory_format=torch.channels_last).requires_grad_()
    conv(x).square().sum().backward()
    junk = [torch.rand(i * 7 + 1) for i in range(50)]
