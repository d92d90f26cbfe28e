//! Plain SVG: no script, no style sheet, no font but the reader's.

use std::fmt::Write;

/// Sides of the plotting area and the margin around it, in pixels.
const SIDE: f64 = 240.0;
const MARGIN: f64 = 40.0;

fn frame(title: &str, x: &str, y: &str, body: &str) -> String {
    let whole = SIDE + 2.0 * MARGIN;
    let middle = MARGIN + SIDE / 2.0;
    let end = MARGIN + SIDE;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{whole}\" height=\"{whole}\" viewBox=\"0 0 {whole} {whole}\" \
         role=\"img\" font-family=\"sans-serif\" font-size=\"11\">\n<title>{title}</title>\n\
         <rect width=\"{whole}\" height=\"{whole}\" fill=\"#fff\"/>\n\
         <text x=\"{middle}\" y=\"20\" text-anchor=\"middle\">{title}</text>\n\
         <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{x}</text>\n\
         <text x=\"14\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {middle})\">{y}</text>\n\
         <rect x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"#666\"/>\n\
         <text x=\"{MARGIN}\" y=\"{}\" text-anchor=\"middle\">0</text>\n\
         <text x=\"{end}\" y=\"{}\" text-anchor=\"middle\">1</text>\n{body}</svg>\n",
        end + 32.0,
        end + 14.0,
        end + 14.0,
    )
}

/// Points in the unit square, with the diagonal.
pub(super) fn scatter(title: &str, x: &str, y: &str, points: &[(f64, f64)]) -> String {
    let end = MARGIN + SIDE;
    let mut body =
        format!("<line x1=\"{MARGIN}\" y1=\"{end}\" x2=\"{end}\" y2=\"{MARGIN}\" stroke=\"#bbb\"/>\n");
    for (x, y) in points {
        let (x, y) = (MARGIN + x.clamp(0.0, 1.0) * SIDE, end - y.clamp(0.0, 1.0) * SIDE);
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"#1f5fa8\" fill-opacity=\"0.5\"/>"
        );
    }
    frame(title, x, y, &body)
}

/// Two histograms over 0 to 1 side by side: shares by bin.
pub(super) fn histograms(title: &str, x: &str, first: &[f64], second: &[f64]) -> String {
    const BINS: usize = 20;
    let shares = |values: &[f64]| -> [f64; BINS] {
        let mut shares = [0.0; BINS];
        for value in values {
            let bin = (value.clamp(0.0, 1.0) * BINS as f64) as usize;
            shares[bin.min(BINS - 1)] += 1.0 / values.len() as f64;
        }
        shares
    };
    let (first, second) = (shares(first), shares(second));
    let most = first.iter().chain(&second).copied().fold(f64::MIN_POSITIVE, f64::max);
    let (end, width) = (MARGIN + SIDE, SIDE / BINS as f64 / 2.0);
    let mut body = String::new();
    for (at, pair) in first.iter().zip(&second).enumerate() {
        for (side, share, colour) in [(0.0, pair.0, "#888"), (1.0, pair.1, "#1f5fa8")] {
            let height = share / most * SIDE;
            let left = MARGIN + (2.0 * at as f64 + side) * width;
            let _infallible = writeln!(
                body,
                "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
                end - height
            );
        }
    }
    frame(title, x, "share of studies", &body)
}
