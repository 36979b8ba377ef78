"""What the numbers of a report mean: name, formula, and how to read it."""

GLOSSARY = (
    ("R_obs", "Σ |√I_o − √I_c| / Σ √I_o over I_o > 3σ", "misfit of amplitudes; pooled: sums over all frames first"),
    (
        "wR2",
        "√( Σ (w (I_c − I_o))² / Σ (w I_o)² ), w = 1 / √( s² + (0.01 √I_o)² ), s = σ / (2 √I_o)",
        "as published programs compute it (Klar et al. 2023)",
    ),
    (
        "klar",
        "|S_g| / span < rsg and span − |S_g| > dsg",
        "selection of published R factors; one refitted scale a frame",
    ),
    ("nearest", "each (hkl, I, σ) once, where |S_g| / span is smallest", "selection that counts no measurement twice"),
    ("held-out R", "R_obs over hkl that the fit never saw", "near that of the fit when there is no over-fitting"),
    ("z", "(I_o − I_c) / scale of the error model", "mostly within ±2; Student-t allows a few far ones"),
    (
        "a, b, ν",
        "scale² = (a σ)² + (b I_c)², Student-t with ν degrees of freedom",
        "a near 1: σ is honest; b: model error",
    ),
    ("LOO-PIT", "rank of I_o among predictions from all other data", "uniform when the predicted spread is right"),
    ("mean(su)", "mean and standard deviation of the posterior draws", "0.8540(2) is 0.8540 ± 0.0002"),
    ("95 %", "2.5 to 97.5 % of the draws", "the number lies inside with probability 0.95, given model and data"),
    ("R-hat", "√( (within + between variance of chains) / within ), of ranks", "below 1.01 when the chains agree"),
    ("ESS", "draws / (1 + 2 Σ autocorrelation)", "independent draws the chains are worth; 400 are enough"),
    ("divergence", "a trajectory whose energy error exploded", "none in a chain one can trust"),
    ("E-BFMI", "mean (ΔE)² / var E", "above 0.3 when the chains reach the tails"),
    ("ELBO", "E_q[log p − log q]", "what the guide maximises: flat at the end when it is fitted"),
    (
        "Pareto k",
        "shape of the tail of p / q at draws of the guide",
        "below 0.7, and 1 - 1 / log10 of the draws, when the guide covers the posterior",
    ),
    ("Laplace", "normal distribution with the curvature at the maximum", "exact only for a normal posterior"),
    ("elpd, LOO", "Σ log p(I_i | all others)", "predictive density of measurements left out; larger is better"),
    ("taper", "t = T x^k, x uniform in (0, 1)", "thickness within a frame: slab k = 0, rod 0.3, wedge that runs out 1"),
    ("step", "t = T x^k, or h T x^k with odds o", "two terraces: h is step_height, log o is log_odds of every frame"),
    ("span", "half-range of S_g that a frame sweeps", "lever arm of the reflection times the half angle of the frame"),
    ("U_eq", "trace(U_cart) / 3", "mean square displacement over all directions, Å²"),
)
