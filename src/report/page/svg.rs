//! Pictures over time: axes, areas, lines and marks, in SVG.

use std::fmt::Write;

/// The picture, in its own units.
pub(super) const WIDTH: f64 = 960.0;
/// Where time begins and ends in it.
pub(super) const LEFT: f64 = 78.0;
pub(super) const RIGHT: f64 = 948.0;
const TOP: f64 = 22.0;
const BELOW: f64 = 30.0;

/// Along time, or against it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    On,
    Back,
}

/// A picture whose horizontal axis is time.
pub(super) struct Picture {
    body: String,
    height: f64,
    span_s: f64,
    most: f64,
}

impl Picture {
    /// A picture of `span_s` seconds, `height` high without its labels, of values up to `most`.
    pub(super) fn new(height: f64, span_s: f64, most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        Self { body: String::new(), height, span_s: span_s.max(1e-6), most }
    }

    pub(super) fn x(&self, at_s: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (at_s / self.span_s).clamp(0.0, 1.0)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        TOP + self.height * (1.0 - (value / self.most).clamp(0.0, 1.0))
    }

    /// Adds anything.
    pub(super) fn add(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    /// Fills what is between two curves of steps, one value of each for every interval.
    pub(super) fn area(&mut self, class: &str, title: &str, bin_s: f64, low: &[f64], high: &[f64]) {
        if low.iter().zip(high).all(|(low, high)| high <= low) {
            return;
        }
        let mut path = String::new();
        let numbered = |curve: &[f64]| curve.iter().copied().enumerate().collect::<Vec<_>>();
        self.steps(&mut path, 'M', bin_s, Way::On, &numbered(high));
        self.steps(&mut path, 'L', bin_s, Way::Back, &numbered(low));
        self.add(&format!(
            "<path class=\"area {class}\" d=\"{path}Z\"><title>{title}</title></path>"
        ));
    }

    /// Draws a curve of steps; where there is no value there is a gap.
    pub(super) fn line(&mut self, class: &str, bin_s: f64, values: &[Option<f64>]) {
        let mut path = String::new();
        let told =
            values.iter().enumerate().filter_map(|(bin, value)| value.map(|value| (bin, value)));
        let told: Vec<_> = told.collect();
        for run in told.chunk_by(|one, two| one.0 + 1 == two.0) {
            self.steps(&mut path, 'M', bin_s, Way::On, run);
        }
        if !path.is_empty() {
            self.add(&format!("<path class=\"line {class}\" d=\"{path}\"/>"));
        }
    }

    /// Horizontal where a value holds, and only as many points as it takes.
    fn steps(&self, path: &mut String, first: char, bin_s: f64, way: Way, values: &[(usize, f64)]) {
        let (mut command, mut held) = (first, None::<(f64, f64)>);
        let ordered = |at: usize| match way {
            Way::On => values[at],
            Way::Back => values[values.len() - 1 - at],
        };
        for (bin, value) in (0..values.len()).map(ordered) {
            let (one, two) = (self.x(bin as f64 * bin_s), self.x((bin + 1) as f64 * bin_s));
            let (from, until) = if way == Way::Back { (two, one) } else { (one, two) };
            let y = self.y(value);
            match &mut held {
                Some((end, last)) if (*last - y).abs() < 0.05 => *end = until,
                _ => {
                    if let Some((end, last)) = held {
                        write!(path, "L{end:.1} {last:.1}").ok();
                    }
                    write!(path, "{command}{from:.1} {y:.1}").ok();
                    command = 'L';
                    held = Some((until, y));
                }
            }
        }
        if let Some((end, last)) = held {
            write!(path, "L{end:.1} {last:.1}").ok();
        }
    }

    /// A line across at a moment, with a mark at its top.
    pub(super) fn mark(&mut self, at_s: f64, label: &str, title: &str) {
        let (x, end) = (self.x(at_s), TOP + self.height);
        self.add(&format!(
            "<g class=\"mark\"><title>{title}</title><line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{end:.1}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"8\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text></g>",
            TOP - 11.0,
            TOP - 7.0,
        ));
    }

    /// Lines across, each with what its value is called.
    pub(super) fn grid(&mut self, name: impl Fn(f64) -> String) {
        self.lines_across(nice(self.most / 4.0), name);
    }

    /// The same of bytes, which are counted in units of 1,024.
    pub(super) fn grid_of_bytes(&mut self, name: impl Fn(f64) -> String) {
        let unit = 1_024_f64.powf(self.most.max(1.0).log(1_024.0).floor());
        self.lines_across(nice(self.most / 4.0 / unit) * unit, name);
    }

    fn lines_across(&mut self, step: f64, name: impl Fn(f64) -> String) {
        let mut lines = String::new();
        let mut value = 0.0;
        while value <= self.most * 1.000_001 {
            let y = self.y(value);
            write!(
                lines,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                name(value)
            )
            .ok();
            value += step;
        }
        self.body.insert_str(0, &lines);
    }

    /// The whole of it; `label` says what it shows to who does not see it.
    pub(super) fn end(self, label: &str) -> String {
        let bottom = TOP + self.height;
        let all = bottom + BELOW;
        let (step, unit, name) = time_steps(self.span_s);
        let mut ticks = String::new();
        let mut at_s = 0.0;
        while at_s <= self.span_s * 1.000_001 {
            let x = self.x(at_s);
            let said = (at_s / unit * 1_000.0).round() / 1_000.0;
            write!(
                ticks,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{said} {name}</text>",
                bottom + 5.0,
                bottom + 20.0
            )
            .ok();
            at_s += step;
        }
        format!(
            "<div class=\"wide\"><svg viewBox=\"0 0 {WIDTH} {all}\" role=\"img\" aria-label=\"{label}\">\n{}\
             <line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{bottom}\" y2=\"{bottom}\"/>{ticks}\n\
             <line class=\"cursor\" x1=\"0\" x2=\"0\" y1=\"{TOP}\" y2=\"{bottom}\"/></svg></div>\n",
            self.body
        )
    }
}

/// The number of the form 1, 2 or 5 times a power of ten that is next above.
pub(super) fn nice(least: f64) -> f64 {
    if least.is_nan() || least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= least * 0.999);
    step.unwrap_or(10.0) * power
}

/// How far labels of time are apart, in seconds, and their unit, in seconds.
fn time_steps(span_s: f64) -> (f64, f64, &'static str) {
    let least = span_s / 8.0;
    for (unit, name, most, steps) in [
        (60.0, "min", 3_600.0, &[1.0, 2.0, 5.0, 10.0, 15.0, 30.0][..]),
        (3_600.0, "h", f64::INFINITY, &[1.0, 2.0, 3.0, 6.0, 12.0, 24.0][..]),
    ] {
        let found = steps.iter().map(|step| step * unit).find(|step| *step >= least);
        if span_s >= 180.0 && least <= most / 2.0 {
            return (found.unwrap_or_else(|| nice(least / unit) * unit), unit, name);
        }
    }
    (nice(least), 1.0, "s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_a_few_labels_for_any_time() {
        for (span_s, want) in [
            (0.4, (0.05, 1.0, "s")),
            (1.0, (0.2, 1.0, "s")),
            (100.0, (20.0, 1.0, "s")),
            (600.0, (120.0, 60.0, "min")),
            (36_000.0, (7_200.0, 3_600.0, "h")),
        ] {
            let (step, unit, name) = time_steps(span_s);
            assert!((step - want.0).abs() < 1e-9, "{span_s}: {step}");
            assert_eq!((unit as u64, name), (want.1 as u64, want.2), "{span_s}");
        }
        for power in -2..8 {
            let span_s = 10_f64.powi(power);
            let labels = span_s / time_steps(span_s).0;
            assert!((3.0..=11.0).contains(&labels), "{span_s}: {labels}");
        }
    }

    #[test]
    fn a_step_is_a_nice_number() {
        for (least, want) in [(0.13, 0.2), (1.0, 1.0), (2.4, 5.0), (51.0, 100.0), (0.0, 1.0)] {
            assert!((nice(least) - want).abs() < 1e-9, "{least}: {}", nice(least));
        }
    }
}
