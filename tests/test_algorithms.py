"""The algorithms' own mathematics: worked numbers of the specification, then plain loops, then what must not matter."""
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import losses
import train_DMUE
import train_RUL
import train_SCN
from models import Normalize
from models.dmue import DMUE, class_agreement
from models.resnet import ResNet18
from models.rul import RUL, mix
from models.scn import SCN
from models.swinv2 import TimmModel
from cases import mostly_slow

CE, MAXENT = losses.build("ce", num_classes=3), losses.build("maxent", num_classes=3)


def close(actual, expected, atol=2e-6):
    torch.testing.assert_close(torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected).double(),
                               rtol=0, atol=atol)


def t(*values):
    return torch.tensor(values)


class Given(nn.Module):
    """Stands in for a network: looks a row up for each image, whose pixels hold its number."""

    def __init__(self, rows, rows_without_gradient=None):
        super().__init__()
        self.rows = rows
        self.quiet = rows if rows_without_gradient is None else rows_without_gradient

    def forward(self, x):
        rows = self.rows if torch.is_grad_enabled() else self.quiet
        return rows[x.flatten(1)[:, 0].long()][:, :, None, None]


# ---- SCN (9.3)

SPREAD = t(.9, .2, .55, .8, .35, .6, .75, .15, .5, .95)
LEVEL = t(.50, .48, .52, .47, .55, .51, .49, .53, .46, .54)


def test_rank_loss():
    close(train_SCN.rank_loss(SPREAD, .7, .15), 0.)
    close(train_SCN.rank_loss(LEVEL, .7, .15), .1)
    close(train_SCN.rank_loss(LEVEL, .7, .07), .02)
    attention = LEVEL.clone().requires_grad_()
    train_SCN.rank_loss(attention, .7, .15).backward()
    expected = torch.full((10,), -1 / 7)
    expected[[1, 3, 8]] = 1 / 3
    close(attention.grad, expected)


@pytest.mark.parametrize("count, high", [(90, 62), (10, 7), (100, 70), (128, 89), (256, 179)])
def test_size_of_the_high_group(count, high):
    """The product is that of floats, then truncated."""
    assert (~train_SCN.low_group(torch.rand(count, generator=torch.manual_seed(0)), .7)).sum() == high
    attention = torch.zeros(count)
    attention[:high] = 1
    close(train_SCN.rank_loss(attention, .7, 2), 1.)


def test_rank_loss_of_one_image_is_nothing():
    attention = torch.ones(1, requires_grad=True)
    assert train_SCN.rank_loss(attention, .7, .15) == 0
    assert train_SCN.rank_loss(torch.rand(3), 1.0, .15) == 0


def test_attention_scales_the_logits():
    model = SCN(3, 32)
    model.features = lambda image: image.flatten(1)
    model.classifier, model.attention = nn.Linear(2, 3), nn.Linear(2, 1)
    with torch.no_grad():
        model.classifier.weight.copy_(t([1., 0], [0, 1], [-1, 1]))
        model.classifier.bias.copy_(t(.1, 0, -.1))
        model.attention.weight.copy_(t([.5, -.25]))
        model.attention.bias.fill_(.2)
    logits, attention = model(t([1., 2], [.5, -1]))
    close(attention, t(.549834, .668188))
    close(logits, t([.604817, 1.099668, .494851], [.400913, -.668188, -1.069100]))
    close(logits.softmax(1), t([.282796, .463857, .253347], [.635631, .218223, .146146]))
    assert (model.eval()(t([1., 2], [.5, -1])) == logits).all()  # the same product at test


def test_relabel():
    logits, labels = t([5., 0, 0], [1, .5, 0], [0, 6, 0]), t(1, 1, 1)
    for margin, expected in ((.9, [True, False, False]), (.2, [True, False, False]), (.19, [True, True, False])):
        unsure, favourite = train_SCN.relabel(logits, labels, margin)
        assert unsure.tolist() == expected and favourite.tolist() == [0, 0, 1]


# ---- RUL (9.4)

MU = t([1., 0, -1], [.5, .5, .5], [-2, 1, 0], [0, 3, 1])
LOG_VAR = t([0, .2, -.4], [1, .5, 0], [-1, -.5, .3], [.7, .1, -.2])
LABELS, OTHER = t(0, 1, 2, 0), t(2, 0, 3, 1)
MIXED = t([-.336813, .445604, -.554396], [.675071, .324929, -.025212], [-.742350, 2.257650, .628825],
          [.288404, 1.557979, .711596])


def test_mixing():
    close(mix(MU, LOG_VAR, OTHER), MIXED)
    fixed = mix(MU, LOG_VAR, torch.arange(4))
    close(fixed, MU)
    assert mix(MU, LOG_VAR * 1e4, OTHER).isfinite().all()


def test_add_up():
    logits = F.linear(mix(MU, LOG_VAR, OTHER), t([1, 0, .5], [0, 1, -.5], [-1, .5, 1]), t(0, .1, -.1))
    close(logits, t([-.614011, .822802, -.094780], [.662465, .437535, -.637818], [-.427937, 2.043237, 2.400000],
                    [.644202, 1.302182, 1.102182]))
    for criterion, both, own in ((CE, 1.416782, 1.238558), (MAXENT, 1.170163, .975733)):
        close(sum(train_RUL.add_up(criterion, logits, LABELS, OTHER).values()), both)
        close(criterion(logits, LABELS), own)


def test_gradient_reaches_the_variances():
    log_var = LOG_VAR.clone().requires_grad_()
    mix(MU, log_var, OTHER).square().sum().backward()
    assert (log_var.grad != 0).all()


def test_uncertainty_has_no_part_in_a_test(small):
    model = RUL(3, 32).eval()
    image = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    before = model(image)
    for parameter in model.log_var.parameters():
        nn.init.normal_(parameter)
    model.log_var.forward = None  # calling it would fail
    assert (model(image) == before).all()


# ---- DMUE (9.5, 9.6)

FEATURES = t([1, .2], [.8, .5], [.1, 1], [.3, .9], [.6, .6], [1, 1])
EXPERT = t([.5, 1], [1, .5], [.2, .4], [.9, .1], [.3, .8], [.7, .7])
LATENT = t([.4, .9], [1.1, .3], [.6, .6], [.2, 1.2], [.8, .1], [.5, .5])
CLASSIFIERS = [t([1., -1], [.5, 1]), t([0., 1], [1, 0]), t([1., 1], [-1, .5])]
TWO_EACH = t(0, 0, 1, 1, 2, 2)
NUMBERED = torch.arange(6.)[:, None, None, None].expand(6, 3, 4, 4)


def worked(experts="split", missing="zero"):
    """The network of the worked step: everything before the classifiers is given."""
    model = DMUE(3, 32, experts=experts, missing=missing)
    model.feature_map = lambda image, stages: image
    model.backbone.layer4 = Given(FEATURES)
    model.experts = nn.ModuleList(Given((c + 1) * EXPERT, LATENT + .1 * c) for c in range(3))
    with torch.no_grad():
        for c, weight in enumerate(CLASSIFIERS):
            model.expert_classifiers[c] = nn.Linear(2, 2, bias=False)
            model.expert_classifiers[c].weight.copy_(weight)
        model.classifier = nn.Linear(2, 3, bias=False)
        model.classifier.weight.copy_(t([2, -1], [-1, 2], [.5, .5]))
        model.confidence[0].weight.copy_(
            t([.5, -.5, .2, .1, 0, -.1], [-.3, .4, .1, 0, .2, 0], [.1, .1, .1, -.2, .3, .1]))
        model.confidence[0].bias.copy_(t(.1, -.2, .05))
        model.confidence[2].weight.copy_(t([1, -1, .5]))
        model.confidence[2].bias.fill_(.2)
    return model


def rows(values, labels, c):
    """Expert c's values for the images of other classes."""
    return values[c][labels != c]


def test_worked_step_outputs():
    out = worked()(NUMBERED, TWO_EACH)
    close(out.logits, t([1.8, -.6, .6], [1.1, .2, .65], [-.8, 1.9, .55], [-.3, 1.5, .6], [.6, .6, .6], [1, 1, 1]))
    expected = [[[-.2, .5], [.8, .55], [-.5, .95], [0, 1.05]], [[2, 1], [1, 2], [1.6, .6], [1.4, 1.4]],
                [[4.5, 0], [4.5, -2.25], [1.8, 0], [3, -2.55]]]
    for c in range(3):
        close(rows(out.expert_logits, TWO_EACH, c), torch.tensor(expected[c]))
    close(out.confidence, t(.763461, .770353, .481259, .481259, .692152, .692152))
    q = train_DMUE.latent_distribution(out.latent, TWO_EACH, 1.2)
    close(q, t([0, .208609, .791391], [0, .489585, .510415], [.5, 0, .5], [.697059, 0, .302941],
               [.857131, .142868, 0], [.811278, .188722, 0]))


def test_agreement_of_the_worked_step():
    close(class_agreement(FEATURES, TWO_EACH, 3), t([1, 0, .763329], [.976487, 0, 1], [0, 1, .600808],
                                                    [0, 1, .736586], [.416317, 0, 1], [.416317, 0, 1]))
    assert class_agreement(torch.ones(4, 2), t(0, 0, 1, 1), 3).isfinite().all()  # all means equal
    assert class_agreement(torch.zeros(4, 2), t(0, 0, 1, 1), 3).isfinite().all()


def test_worked_step_terms():
    out = worked()(NUMBERED, TWO_EACH)
    close(train_DMUE.latent_loss(out.logits, TWO_EACH, train_DMUE.latent_distribution(out.latent, TWO_EACH, 1.2)),
          .093447)
    close(train_DMUE.auxiliary_loss(out.expert_logits, TWO_EACH), 1.111826)
    close(train_DMUE.similarity_loss(out.expert_logits, out.features, TWO_EACH), .038883)
    per_branch = zip((.547477, .908233, 1.879769), (.056410, .013143, .047095), strict=True)
    for c, (auxiliary, similarity) in enumerate(per_branch):
        own = rows(out.expert_logits, TWO_EACH, c)
        close(F.cross_entropy(own, t(0, 0, 1, 1)), auxiliary)
        close(plain_similarity(own, out.features[TWO_EACH != c]), similarity)
    scaled = out.confidence[:, None] * out.logits
    close(CE(scaled, TWO_EACH), .790934)
    close(MAXENT(scaled, TWO_EACH), .485455)


@pytest.mark.parametrize("criterion, totals", [(CE, (1.379461, 40.667900, 40.401596)),
                                               (MAXENT, (1.377402, 40.362422, 40.096121))])
def test_worked_step_total(criterion, totals):
    """The step as both releases take it, epochs 0 to 2 with ramps of .6 epochs."""
    out, own = worked()(NUMBERED, TWO_EACH), train_DMUE.Algorithm(similarity="logits")
    for epoch, total in enumerate(totals):
        terms = train_DMUE.all_terms(criterion, out, TWO_EACH, TWO_EACH, own, train_DMUE.ramps(epoch, .6))
        close(sum(terms.values()), total, atol=2e-5)


def test_joint_pass_takes_every_row_from_one_pass():
    """Class by class in plain loops, with what one pass of each expert gives."""
    model = worked("joint", "mask")
    out, own = model(NUMBERED, TWO_EACH), train_DMUE.Algorithm()
    experts = [(c + 1) * EXPERT for c in range(3)]
    latent = torch.stack([experts[label][i] @ CLASSIFIERS[label].T for i, label in enumerate(TWO_EACH.tolist())])
    close(out.latent, latent)
    assert not out.latent.requires_grad
    others = [TWO_EACH != c for c in range(3)]
    terms = train_DMUE.all_terms(CE, out, TWO_EACH, TWO_EACH, own, (1, 1))
    close(terms["similarity"] / 1000, sum(
        plain_similarity(experts[c][others[c]], FEATURES[others[c]]) for c in range(3)) / 3)
    close(terms["auxiliary"], sum(
        F.cross_entropy(experts[c][others[c]] @ CLASSIFIERS[c].T, t(0, 0, 1, 1)) for c in range(3)) / 3)


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
def test_stages_together_are_the_stages_one_by_one(whole, monkeypatch, grouped):
    """What a GPU computes, in float64: outputs, gradients of all parameters, and all buffers, after a step."""
    monkeypatch.setattr("models.joint_stages.GROUPED", grouped)
    image = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    results, called = [], []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr("models.dmue.TOGETHER_ON", devices)
        torch.manual_seed(0)
        model = DMUE(3, 64, neck=True).double().to(memory_format=torch.channels_last)
        model.confidence.float()  # it computes in float32 always, and is the same code either way
        model.experts[0].register_forward_hook(lambda *_: called.append(1))
        for parameter in model.parameters():
            if parameter.ndim == 1:  # BatchNorms that differ between stages
                nn.init.uniform_(parameter, .5, 1.5)
        out = model(image, TWO_EACH)._replace(confidence=torch.ones(()))
        loss = sum((value * torch.linspace(-1, 1, value.numel(), dtype=torch.double).view_as(value)).mean()
                   for value in out)
        loss.backward()
        results.append((out, {name: parameter.grad for name, parameter in model.named_parameters()
                                  if parameter.grad is not None}, dict(model.named_buffers())))
    assert len(called) == 1  # the second time the stages were not called one by one
    assert results[1][2]["experts.2.1.bn2.num_batches_tracked"] == 1
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-10)


def test_missing_classes():
    lacking = t(0, 0, 1, 1, 1, 0)
    close(worked()(NUMBERED, lacking).confidence, t(.663263, .635174, .553537, .570223, .626402, .617052))
    masked = class_agreement(FEATURES, lacking, 3)
    assert (masked[:, 2] == 0).all() and (masked[:, :2].amax(1) == 1).all() and (masked[:, :2].amin(1) == 0).all()
    for kind in ("joint", "split", "eval"):
        for missing in ("mask", "zero"):
            out, alone = worked(kind, missing)(NUMBERED, t(*[1] * 6)), t(*[1] * 6)
            terms = train_DMUE.all_terms(CE, out, alone, alone, train_DMUE.Algorithm(), (1, 1))
            assert all(value.isfinite() for value in terms.values()), (kind, missing, terms)
            close(terms["auxiliary"], (1.262368 + 4.512149) / 2)  # the branch without images is left out


def plain_similarity(experts, features):
    def related(x):
        gram = x @ x.T
        return gram / gram.norm(dim=1, keepdim=True)
    return ((related(experts) - related(features)) ** 2).mean()


def test_parts():
    u, f = t([1., 2], [0, 1], [2, -1]), t([1., 0, 1], [.5, 1, 0], [1, 1, 1])
    close(plain_similarity(u, f), .324213)
    alone = t(0, 0, 0)  # only expert 1 has images of other classes
    close(train_DMUE.similarity_loss(torch.stack([u, u]), f, alone), .324213)
    close(train_DMUE.similarity_loss(torch.stack([t([0., 1], [1, 1])] * 2), t([1., 0], [1, 2]), t(0, 0)), .017618)
    logits, labels = t([1., 2, .5], [0, 0, 3]), t(1, 0)
    close(train_DMUE.latent_loss(logits, labels, t([.6, 0, .4], [0, .1, .9])), .034425)
    q = train_DMUE.latent_distribution(t([2, .5, -1]).expand(2, 3), t(1, 3), 1.2)
    close(q, t([.730679, 0, .209343, .059978], [.730679, .209343, .059978, 0]))
    p = t(2., .5, -1).softmax(0)
    close(p, t(.785597, .175290, .039113))


def test_renormalised_latent_loss():
    logits, labels, q = t([1., 2, .5], [0, 0, 3]), t(1, 0), t([.6, 0, .4], [0, .1, .9])
    p = logits.softmax(1) * (1 - F.one_hot(labels, 3))
    close(train_DMUE.latent_loss(logits, labels, q, True), ((p / p.sum(1, keepdim=True) - q) ** 2).mean())


@pytest.mark.parametrize("length, rising, falling", [
    (.6, {0: .006738, 1: 1, 49: 1}, {0: 1, 1: .852144, 2: .612626, 3: .527292, 10: .413292, 49: .376943}),
    (6, {0: .006738, 1: .031048, 2: .108368, 3: .286505, 4: .573753, 5: .870325, 6: 1, 19: 1},
     {0: 1, 5: 1, 6: 1, 7: .979799, 10: .852144, 19: .626163, 49: .462969}),
])
def test_ramps(length, rising, falling):
    for epoch, value in rising.items():
        close(train_DMUE.ramps(epoch, length)[0], value)
    for epoch, value in falling.items():
        close(train_DMUE.ramps(epoch, length)[1], value)


def test_stem_of_the_release_has_no_relu(small):
    image = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    torch.manual_seed(0)
    model = DMUE(3, 32, stem="dmue", normalize="half").eval()
    x = model.backbone.maxpool(model.backbone.relu(model.backbone.bn1(model.backbone.conv1(model.normalize(image)))))
    assert (x < 0).any() and x.shape[2:] == (8, 8)
    close(model.normalize(image), image.double() / 127.5 - 1)


@pytest.mark.parametrize("experts", ["joint", "split", "eval"])
def test_the_experts_have_no_part_in_a_test(small, experts):
    torch.manual_seed(0)
    model = DMUE(3, 32, experts=experts)
    image = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    out = model(image, TWO_EACH)
    assert out.expert_logits.shape == (3, 6, 2) and out.latent.shape == (6, 2) and out.confidence.shape == (6,)
    model.eval()
    before = model(image)
    assert (model(image, TWO_EACH.flip(0)) == before).all()  # labels do not matter
    for module in (*model.experts, model.confidence, *model.expert_classifiers):
        module.forward = None  # calling them would fail
    assert (model(image) == before).all()


def test_scaled_test_logits(small):
    torch.manual_seed(0)
    model = DMUE(3, 32, test_scale=True)
    image = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    confidence = model(image, TWO_EACH).confidence
    close(model.mean_confidence, .99 + .01 * confidence.mean().item())
    model.eval()
    scaled, model.test_scale = model(image), False
    close(scaled.detach(), (model(image) * model.mean_confidence).detach())


def test_neck_and_dropout_stand_before_the_classifiers(small):
    """The authors' form: one BatchNorm without bias for all branches; dropped features reach the classifiers alone."""
    torch.manual_seed(0)
    model = DMUE(3, 32, neck=True, dropout=.5)
    image = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    out = model(image, TWO_EACH)
    close(out.features.mean(0).detach(), torch.zeros(512), atol=1e-5)
    close(out.features.var(0, unbiased=False).detach().max(), 1., atol=1e-2)
    assert (out.features == 0).double().mean() < .25  # dropout would leave every other one
    assert (out.logits - model.classifier(out.features)).abs().max() > 0
    assert not model.neck.bias.requires_grad and model.neck.weight.requires_grad
    model.eval()
    pooled = model.backbone.layer4(model.feature_map(image, stages=3)).mean((2, 3))
    normalised = (pooled - model.neck.running_mean) / (model.neck.running_var + 1e-5).sqrt()
    close(model(image).detach(), model.classifier(normalised).detach(), atol=1e-6)


def test_experts_start_as_the_main_branch(small):
    model = DMUE(3, 32)
    nn.init.ones_(model.backbone.layer4[0].weight)
    model.after_loading()
    for expert in model.experts:
        assert (expert[0].weight == 1).all()
    assert all(one.weight.std() < .002 for one in (*model.expert_classifiers, model.classifier))


@pytest.mark.parametrize("classes, count", [(8, 78_359_250), (7, 69_957_810), (6, 61_557_398)])
def test_number_of_parameters(classes, count, whole):
    """As in the release, where the dead bias-free parts are the same."""
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in DMUE(classes, 224).parameters()) == count
        rul = sum(parameter.numel() for parameter in RUL(classes, 224).parameters())
    assert rul == {8: 14_388_680, 7: 14_388_615, 6: 14_388_550}[classes]


# ---- every term moves the weights it should

def test_each_term_has_a_gradient(small):
    image = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    criterion = losses.build("maxent+mbls", num_classes=3, margin=0.0)
    torch.manual_seed(0)
    scn, rul, dmue = SCN(3, 32), RUL(3, 32), DMUE(3, 32)
    for layer in (*dmue.expert_classifiers, dmue.classifier):
        nn.init.normal_(layer.weight)
    logits, attention = scn(image)
    cases = [(scn, criterion.terms(logits, TWO_EACH) | {"rank": train_SCN.rank_loss(attention, .7, 1.0)}),
             (rul, train_RUL.add_up(criterion, rul(image, t(1, 2, 3, 4, 5, 0)), TWO_EACH, t(1, 2, 3, 4, 5, 0))),
             (dmue, train_DMUE.all_terms(criterion, dmue(image, TWO_EACH), TWO_EACH, TWO_EACH, train_DMUE.Algorithm(),
                                         (1, 1)))]
    moved = {}
    for model, terms in cases:
        for name, value in terms.items():
            model.zero_grad()
            value.backward(retain_graph=True)
            moved[type(model).__name__, name] = {
                key.split(".")[0] for key, parameter in model.named_parameters()
                if parameter.grad is not None and parameter.grad.abs().sum() > 0}
    assert all("backbone" in parts for parts in moved.values()), moved
    for name in ("focal", "maxent", "mbls"):
        assert moved["SCN", name] == {"backbone", "attention", "classifier"}
        assert moved["RUL", name] == {"backbone", "mu", "log_var", "classifier"}
        assert moved["DMUE", name] == {"backbone", "classifier", "confidence"}
    assert moved["SCN", "rank"] == {"backbone", "attention"}
    assert moved["DMUE", "latent"] == {"backbone", "classifier"}
    assert moved["DMUE", "auxiliary"] == {"backbone", "experts", "expert_classifiers"}
    assert moved["DMUE", "similarity"] == {"backbone", "experts"}


def test_terms_are_finite_under_bfloat16(small):
    image = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    for model, more in ((SCN(3, 32), ()), (RUL(3, 32), (t(1, 2, 3, 4, 5, 0),)), (DMUE(3, 32), (TWO_EACH,))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(image, *more)
        for value in out if isinstance(out, tuple) else (out,):
            assert value.isfinite().all()


def test_heads_of_rul_together(small, monkeypatch):
    """What a GPU computes: logits, gradients and buffers of two steps are those of one head after the other."""
    image, partner, results = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8), t(1, 2, 3, 4, 5, 0), []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr("models.rul.TOGETHER_ON", devices)
        torch.manual_seed(0)
        model = RUL(3, 32, dropout=0.0)
        model.backbone.layer4[3] = nn.Identity()  # instead of the dropout of the small network
        logits = [model(image, partner) for _ in range(2)]
        sum(out.square().sum() for out in logits).backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append((logits, gradients, dict(model.named_buffers())))
    assert results[1][2]["log_var.0.num_batches_tracked"] == 2
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


# ---- what a GPU computes in inference

def trained_a_little(model, size):
    """The network in eval mode, with statistics and BatchNorms that differ between channels."""
    image = torch.randint(256, (8, 3, size, size), dtype=torch.uint8)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, .5, 1.5)
    model.eval()
    model.backbone.train()
    with torch.no_grad():
        for _ in range(3):
            model(image)
    return model.eval(), image


@pytest.mark.parametrize("build", mostly_slow([
    lambda: ResNet18(3, 64), lambda: SCN(3, 64), lambda: RUL(3, 64), lambda: DMUE(3, 64, neck=True, test_scale=True),
    lambda: DMUE(3, 64, stem="dmue", normalize="half"), lambda: ResNet18(3, 160)], fast=[0, 4]))
def test_folded_networks_give_the_same_logits(whole, build):
    """Within 1e-5 of the largest logit; in bfloat16 within 5 %. The network itself does not change."""
    torch.manual_seed(0)
    model = build()
    model, image = trained_a_little(model, model.arguments["image_size"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        wanted, folded = model(image), model.for_inference(torch.float32).to(memory_format=torch.channels_last)
        assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.backbone.modules())
        scale = wanted.abs().max()
        torch.testing.assert_close(folded(image) / scale, wanted / scale, rtol=0, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model.for_inference(torch.bfloat16)(image)
    assert 0 < (rounded - wanted).abs().max() < .05 * scale
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(name.startswith("expert") for name in folded.state_dict())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_normalisation_in_one_operation(dtype, tolerance):
    normalize = Normalize()
    image = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    for given in (image, image.contiguous(memory_format=torch.channels_last)):
        out = normalize.in_one_operation(given, dtype)
        assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out.float(), normalize(image), rtol=tolerance, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", mostly_slow([32, 48, 64, 128], fast=[0]))
def test_small_maps_take_another_way_to_the_same_numbers(whole, size):
    image = torch.randint(256, (4, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(0))
    labels, results = t(0, 1, 2, 0), []
    for same in (True, False):
        torch.manual_seed(0)
        model = ResNet18(3, size).double().to(memory_format=torch.channels_last)
        if not same:
            for block in (*model.backbone.layer3, *model.backbone.layer4):
                block.conv1.forward, block.conv2.forward = (
                    nn.Conv2d.forward.__get__(conv) for conv in (block.conv1, block.conv2))
        logits = model(image)
        F.cross_entropy(logits, labels).backward()
        results.append((logits, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(*results)
    large = ResNet18(3, 224).backbone
    assert type(large.layer3[0].conv1) is type(large.layer4[0].conv1) is nn.Conv2d


# ---- timm

def test_transformers_see_the_image_at_their_own_scale():
    model = TimmModel(7, 48, "test_vit", drop_path=.1)
    assert model.size == 32  # 48 * 160 / 224 = 34.3
    image = torch.randint(256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.manual_seed(0))
    assert model.eval()(image).shape == (2, 7)
    assert TimmModel(7, 224, "test_vit").size == 160
    assert TimmModel(7, 48, "test_resnet").size == 48


def test_head_on_imagenet_logits():
    model = TimmModel(7, 32, "test_resnet", head="imagenet_logits")
    assert model.classifier.in_features == 1000
    assert TimmModel(7, 32, "test_resnet").classifier.in_features == model.backbone.num_features


def test_groups_spare_norms_and_biases():
    for name, more in (("test_vit", {"pos_embed", "cls_token"}), ("test_resnet", set())):
        model = TimmModel(7, 32, name)
        spared, decayed = model.groups(.1)
        assert (spared["weight_decay"], decayed["weight_decay"]) == (0, .1)
        names = {id(parameter): name.removeprefix("backbone.") for name, parameter in model.named_parameters()}
        flat = {name for name, parameter in model.backbone.named_parameters() if parameter.ndim < 2}
        assert {names.pop(id(parameter)) for parameter in spared["params"]} == flat | more | {"classifier.bias"}
        assert {names.pop(id(parameter)) for parameter in decayed["params"]} and not names


@pytest.mark.slow
def test_swin_spares_what_timm_exempts():
    model = TimmModel(7, 64, "swinv2_tiny_window8_256")
    decayed = {id(parameter) for parameter in model.groups(.1)[1]["params"]}
    exempt = model.backbone.no_weight_decay()
    named = dict(model.backbone.named_parameters())
    assert len(exempt) == 48 and not any(id(named[name]) in decayed for name in exempt)


@pytest.mark.parametrize("neck", [False, True])
@pytest.mark.parametrize("experts", ["split", "eval"])
@pytest.mark.parametrize("labels", [[2, 2, 2, 2], [0, 1, 2, 2], [0, 1]])
def test_every_parameter_has_a_gradient_whatever_the_batch_holds(experts, labels, neck):
    """DDP waits for all of them. At 32 pixels the last map is one pixel: no batch statistics of a single image."""
    model = DMUE(3, 32, experts=experts, neck=neck).train()
    image = torch.randint(256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    labels = torch.tensor(labels)
    out = model(image, labels)
    terms = train_DMUE.all_terms(losses.build("ce", 3), out, labels, labels, train_DMUE.Algorithm(), (1, 1))
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["neck.bias"] * neck


def test_swin_has_the_published_number_of_parameters():
    model = TimmModel(8, 224, "swinv2_tiny_window8_256", .1, "imagenet_logits")
    assert model.size == 256
    assert sum(parameter.numel() for parameter in model.parameters()) == 28_347_154 + 1001 * 8
    rates = [block.drop_path1.drop_prob for layer in model.backbone.layers for block in layer.blocks
             if hasattr(block.drop_path1, "drop_prob")]
    assert math.isclose(max(rates), .1, rel_tol=1e-6) and rates == sorted(rates)
