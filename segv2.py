import sys, torch
torch.set_num_threads(1)
c, s, n = map(int, sys.argv[1:4])
for o in (4, 8, 12, 16, 24, 32, 48, 64):
  for k in range(2):
    conv = torch.nn.Conv2d(c, o, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
    x = torch.rand(n, c, s, s).to(memory_format=torch.channels_last)
    conv(x).square().sum().backward()
    junk = [torch.rand(i * 7 + 1) for i in range(50)]
print("ok")
