import sys, torch
torch.set_num_threads(1)
c, o, n, s = map(int, sys.argv[1:5])
for k in range(3):
    conv = torch.nn.Conv2d(c, o, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
    x = torch.rand(n, c, s, s).to(memory_format=torch.channels_last).requires_grad_()
    ref = torch.nn.Conv2d(c, o, 1, stride=2, bias=False); ref.load_state_dict(conv.state_dict()); ref = ref.to(memory_format=torch.contiguous_format)
    conv(x).square().sum().backward()
    y = x.detach().contiguous().requires_grad_(); 
    ref.weight.data = ref.weight.data.contiguous()
    # reference by matmul
    xs = y[:, :, ::2, ::2].permute(0,2,3,1).reshape(-1, c); w = ref.weight.detach().reshape(o, c).clone().requires_grad_()
    (xs @ w.t()).square().sum().backward()
    e = (conv.weight.grad.reshape(o, c) - w.grad).abs().max() / w.grad.abs().max()
print("ok", sys.argv[1:], float(e))
