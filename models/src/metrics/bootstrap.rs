//! The bootstrap: percentile intervals over resamples that the caller gives, and a generator of
//! resamples whose every index follows from a seed, so that an interval can be computed again.

use serde::{Deserialize, Serialize};

use super::{Interval, MetricError, finite, probability};

/// Sebastiano Vigna's SplitMix64 (2015): 64 bits of state, each seed its own sequence. Not for
/// secrets; chosen because twelve lines in any language make the same numbers.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator from its seed.
    pub fn new(seed: u64) -> Self {
        SplitMix64(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number below `bound` (which is above 0), each as likely as the others: numbers of
    /// the last, incomplete round of `bound` are drawn again.
    pub fn below(&mut self, bound: u64) -> u64 {
        let rest = (u64::MAX % bound + 1) % bound;
        loop {
            let drawn = self.next_u64();
            if drawn <= u64::MAX - rest {
                return drawn % bound;
            }
        }
    }
}

/// How cases are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bootstrap {
    /// Each case from all cases.
    Plain,
    /// As many positive and negative cases as there are, each from its own kind.
    Stratified,
}

/// Resamples without end: each is a list of case indices as long as the set.
#[derive(Clone, Debug)]
pub struct Resamples {
    random: SplitMix64,
    strata: Vec<Vec<usize>>,
}

impl Resamples {
    /// Resamples of these cases from a seed.
    pub fn new(kind: Bootstrap, truth: &[bool], seed: u64) -> Self {
        let of = |wanted: bool| (0..truth.len()).filter(|at| truth[*at] == wanted).collect::<Vec<_>>();
        let strata = match kind {
            Bootstrap::Plain => vec![(0..truth.len()).collect()],
            Bootstrap::Stratified => vec![of(true), of(false)],
        };
        Resamples { random: SplitMix64::new(seed), strata }
    }
}

impl Iterator for Resamples {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let mut drawn = Vec::with_capacity(self.strata.iter().map(Vec::len).sum());
        for stratum in &self.strata {
            for _ in 0..stratum.len() {
                drawn.push(stratum[self.random.below(stratum.len() as u64) as usize]);
            }
        }
        Some(drawn)
    }
}

/// The percentile interval of a measure over resamples of `cases` cases. `measure` gets the drawn
/// indices. A resample on which it is not defined (one kind of cases only) is left out; more than
/// one in ten of them, and there is no interval.
pub fn percentile_interval(
    cases: usize,
    resamples: impl IntoIterator<Item = Vec<usize>>,
    level: f64,
    mut measure: impl FnMut(&[usize]) -> Result<f64, MetricError>,
) -> Result<Interval, MetricError> {
    let tail = (1.0 - probability(level)?) / 2.0;
    let mut values = Vec::new();
    let mut total = 0;
    for drawn in resamples {
        if let Some(index) = drawn.iter().copied().find(|index| *index >= cases) {
            return Err(MetricError::ResampleOutside { index, cases });
        }
        total += 1;
        if let Ok(value) = measure(&drawn) {
            values.push(value);
        }
    }
    if total == 0 {
        return Err(MetricError::Empty);
    }
    let undefined = total - values.len();
    if undefined * 10 > total {
        return Err(MetricError::UndefinedResamples { undefined, total });
    }
    values.sort_by(f64::total_cmp);
    Ok(Interval { lower: percentile(&values, tail)?, upper: percentile(&values, 1.0 - tail)?, level })
}

/// The quantile at `share` (0 to 1) of sorted values, straight between the two nearest (Hyndman
/// and Fan's type 7, the default of NumPy and R).
pub fn percentile(sorted: &[f64], share: f64) -> Result<f64, MetricError> {
    if !(0.0..=1.0).contains(&share) {
        return Err(MetricError::NotAProbability(share));
    }
    finite(sorted)?;
    let last = sorted.len().checked_sub(1).ok_or(MetricError::Empty)?;
    let place = share * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    Ok(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}

#[cfg(test)]
mod tests {
    use super::super::auc;
    use super::*;

    #[test]
    fn the_generator_gives_the_published_sequence() {
        let mut random = SplitMix64::new(1234567);
        let drawn: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(drawn, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn every_index_is_drawn_about_as_often() {
        let mut random = SplitMix64::new(7);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[random.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
    }

    #[test]
    fn strata_keep_their_sizes_and_seeds_their_sequence() {
        let truth = [true, false, false, true, false];
        for drawn in Resamples::new(Bootstrap::Stratified, &truth, 1).take(50) {
            assert_eq!(drawn.iter().filter(|at| truth[**at]).count(), 2);
        }
        let twice = || Resamples::new(Bootstrap::Plain, &truth, 9).take(3).collect::<Vec<_>>();
        assert_eq!(twice(), twice());
    }

    #[test]
    fn an_interval_of_mostly_undefined_resamples_is_refused() {
        let (scores, truth) = ([0.1, 0.9, 0.4], [true, false, false]);
        let measure = |drawn: &[usize]| {
            let scores: Vec<f64> = drawn.iter().map(|at| scores[*at]).collect();
            let truth: Vec<bool> = drawn.iter().map(|at| truth[*at]).collect();
            auc(&scores, &truth)
        };
        let plain = Resamples::new(Bootstrap::Plain, &truth, 3).take(200);
        let refused = percentile_interval(3, plain, 0.95, measure);
        assert!(matches!(refused, Err(MetricError::UndefinedResamples { .. })), "{refused:?}");
        assert_eq!(percentile_interval(3, Vec::new(), 0.95, measure), Err(MetricError::Empty));
        assert_eq!(
            percentile_interval(3, [vec![3]], 0.95, measure),
            Err(MetricError::ResampleOutside { index: 3, cases: 3 })
        );
    }
}
