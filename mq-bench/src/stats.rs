//! Medians and their uncertainty.

/// The median; NaN for no values.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The `q` quantile by linear interpolation; NaN for no values.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

/// The lower bound of the 95 % interval of the median, by 2,000 bootstrap samples with a fixed seed.
pub(crate) fn lower_bound(values: &[f64]) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let mut random = fastrand::Rng::with_seed(0x6d71);
    let medians: Vec<f64> = (0..2000)
        .map(|_| {
            let sample: Vec<f64> = (0..values.len()).map(|_| values[random.usize(..values.len())]).collect();
            median(&sample)
        })
        .collect();
    quantile(&medians, 0.025)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_bounds() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        let values: Vec<f64> = (0..40).map(|n| 1.0 + f64::from(n % 5) / 100.0).collect();
        let bound = lower_bound(&values);
        assert!((1.0..=1.02).contains(&bound), "{bound}");
        assert!(median(&[]).is_nan() && lower_bound(&[]).is_nan());
    }
}
