//! Latencies by percentile as a picture: across, the percentile by its nines; upwards, the latency
//! by its powers of ten.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// The picture, and the field in it that has the curves, in SVG's units.
const WIDTH: f64 = 1010.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 812.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 470.0;

/// The fewest and most nines across.
const NINES_MIN: f64 = 2.0;
const NINES_MAX: f64 = 6.0;

/// Points of a curve for each nine.
const POINTS_PER_NINE: f64 = 40.0;

/// Least distance between the names of two curves.
const NAME_STEP: f64 = 17.0;

/// Where names begin with a piece of their curve's line, and how long that is.
const NAME_LEFT: f64 = RIGHT + 10.0;
const SAMPLE_WIDTH: f64 = 28.0;

/// Colours that differ for those who do not see red or green, and on light and dark paper; with
/// more curves than these they come again, each time with other dashes.
const COLOURS: usize = 3;

/// Ways of dashing, the first of which is none.
const DASHES: usize = 4;

const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--soft:#59636e;--grid:#d1d9e0;\
--c0:#0969da;--c1:#bc4c00;--c2:#1a7f64}\
@media (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#f0f6fc;--soft:#9198a1;\
--grid:#30363d;--c0:#58a6ff;--c1:#ff9b50;--c2:#4fd1a5}}\
svg{background:var(--paper)}\
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:var(--soft)}\
.title{font-size:18px;font-weight:600;fill:var(--ink)}\
.grid{stroke:var(--grid);stroke-width:1}.minor{stroke-dasharray:1 4}\
.curve,.sample{fill:none;stroke-width:2;stroke-linejoin:round}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.d1{stroke-dasharray:6 4}\
.d2{stroke-dasharray:2 3}.d3{stroke-dasharray:12 3 2 3}\
.name{font-weight:600}.n0{fill:var(--c0)}.n1{fill:var(--c1)}.n2{fill:var(--c2)}";

/// The latencies of one kind of call, µs.
#[derive(Debug, Clone, Copy)]
pub struct Curve<'a> {
    /// What stands beside the curve.
    pub name: &'a str,
    /// Without a sample there is no curve.
    pub histogram: &'a Histogram<u64>,
}

/// An SVG document with the curves; `settings` stands below the title.
#[must_use]
pub fn picture(steps: &[Curve<'_>], title: &str, settings: &str) -> String {
    let mut out = String::new();
    draw(&mut out, steps, title, settings).expect("strings take all that is written");
    out
}

fn draw(out: &mut String, steps: &[Curve<'_>], title: &str, settings: &str) -> std::fmt::Result {
    let shown: Vec<&Curve<'_>> = steps
        .iter()
        .filter(|step| !step.histogram.is_empty())
        .collect();
    let field = Field::around(&shown);
    write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"34\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"56\">{settings}</text>\n",
        title = escaped(title),
        settings = escaped(settings),
    )?;
    field.draw_grid(out)?;
    let mut names = Vec::new();
    for (at, step) in shown.iter().enumerate() {
        let (colour, dashes) = (at % COLOURS, at / COLOURS % DASHES);
        let mut path = String::new();
        for (x, y) in field.curve(step.histogram) {
            let to = if path.is_empty() { 'M' } else { 'L' };
            write!(path, "{to}{x:.1} {y:.1}")?;
        }
        writeln!(
            out,
            "<path class=\"curve c{colour} d{dashes}\" d=\"{path}\"/>"
        )?;
        names.push((field.y(step.histogram.max()), (colour, dashes), step.name));
    }
    for (y, (colour, dashes), name) in apart(names) {
        let (x, line) = (NAME_LEFT + SAMPLE_WIDTH + 6.0, y - 4.5);
        writeln!(
            out,
            "<path class=\"sample c{colour} d{dashes}\" d=\"M{NAME_LEFT} {line:.1}h{SAMPLE_WIDTH}\"/>\
             <text class=\"name n{colour}\" x=\"{x}\" y=\"{y:.1}\">{}</text>",
            escaped(name)
        )?;
    }
    if shown.is_empty() {
        let (x, y) = (LEFT + 20.0, (TOP + BOTTOM) / 2.0);
        writeln!(out, "<text x=\"{x}\" y=\"{y}\">no call was answered</text>")?;
    }
    out.push_str("</svg>\n");
    Ok(())
}

/// What is shown: nines across, powers of ten of µs upwards.
struct Field {
    nines: f64,
    low: f64,
    high: f64,
}

impl Field {
    fn around(steps: &[&Curve<'_>]) -> Self {
        let histograms = || steps.iter().map(|step| step.histogram);
        let samples = histograms().map(Histogram::len).max().unwrap_or(1);
        let lowest = histograms().map(Histogram::min).min().unwrap_or(1);
        let highest = histograms().map(Histogram::max).max().unwrap_or(1_000);
        // From and to a whole, a second or a fifth of a power of ten.
        let round = |us: u64, up: bool| {
            let marks = [1.0, 2.0, 5.0, 10.0];
            let us = us.max(1) as f64;
            let power = 10_f64.powf(us.log10().floor());
            let mark = match up {
                true => marks.into_iter().find(|mark| mark * power >= us),
                false => marks.into_iter().rfind(|mark| mark * power <= us),
            };
            (mark.unwrap_or(1.0) * power).log10()
        };
        let (low, high) = (round(lowest, false), round(highest, true));
        Self {
            nines: (samples.max(1) as f64)
                .log10()
                .ceil()
                .clamp(NINES_MIN, NINES_MAX),
            low,
            // At least a part of a power, where all latencies are alike.
            high: high.max(low + 0.3),
        }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * nines / self.nines
    }

    fn y(&self, us: u64) -> f64 {
        let share = ((us.max(1) as f64).log10() - self.low) / (self.high - self.low);
        BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0)
    }

    /// A curve's points, as far as there are samples to tell percentiles by; the last is the
    /// longest latency.
    fn curve(&self, histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
        let end = (histogram.len() as f64).log10().min(self.nines);
        let points = (end * POINTS_PER_NINE) as u32;
        let mut curve: Vec<_> = (0..=points)
            .map(|point| {
                let nines = f64::from(point) / POINTS_PER_NINE;
                let us = histogram.value_at_quantile(1.0 - 10_f64.powf(-nines));
                (self.x(nines), self.y(us))
            })
            .collect();
        curve.push((self.x(end), self.y(histogram.max())));
        curve
    }

    fn draw_grid(&self, out: &mut String) -> std::fmt::Result {
        for nines in 0..=self.nines as u32 {
            let x = self.x(nines.into());
            let label = match nines {
                0 => "0 %".to_owned(),
                1 => "90 %".to_owned(),
                2 => "99 %".to_owned(),
                more => format!("99.{} %", "9".repeat(more as usize - 2)),
            };
            let y = BOTTOM + 22.0;
            writeln!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>\
                 <text text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y}\">{label}</text>"
            )?;
        }
        for power in self.low.floor() as i32..=self.high.ceil() as i32 {
            for mark in [1, 2, 5] {
                let us = f64::from(mark) * 10_f64.powi(power);
                if us.log10() < self.low - 1e-9 || us.log10() > self.high + 1e-9 {
                    continue;
                }
                let y = self.y(us as u64);
                let minor = if mark == 1 { "" } else { " minor" };
                let (x, base) = (LEFT - 10.0, y + 4.5);
                writeln!(
                    out,
                    "<path class=\"grid{minor}\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>\
                     <text text-anchor=\"end\" x=\"{x}\" y=\"{base:.1}\">{}</text>",
                    duration(us as u64)
                )?;
            }
        }
        let (across, below) = ((LEFT + RIGHT) / 2.0, BOTTOM + 48.0);
        writeln!(
            out,
            "<text text-anchor=\"middle\" x=\"{across}\" y=\"{below}\">share of calls that took no \
             longer</text>"
        )
    }
}

/// A curve's colour and dashes, by number.
type Line = (usize, usize);

/// The names' places, none on top of another, in the order of the curves' ends.
fn apart(mut names: Vec<(f64, Line, &str)>) -> Vec<(f64, Line, &str)> {
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut lowest = f64::NEG_INFINITY;
    for name in &mut names {
        name.0 = (name.0 + 4.5).max(lowest + NAME_STEP);
        lowest = name.0;
    }
    names
}

/// A round latency with its unit.
fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency_histogram;

    fn calls(latencies: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = latency_histogram();
        latencies
            .into_iter()
            .for_each(|us| histogram.record(us).unwrap());
        histogram
    }

    fn curve<'a>(name: &'a str, histogram: &'a Histogram<u64>) -> Curve<'a> {
        Curve { name, histogram }
    }

    #[test]
    fn a_curve_rises_from_the_least_to_the_longest_latency() {
        let leases = calls((1..=1_000).map(|n| 90 * n));
        let step = curve("lease", &leases);
        let field = Field::around(&[&step]);
        assert_eq!(field.nines, 3.0);
        assert_eq!(field.high, 5.0);
        let curve = field.curve(step.histogram);
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert!(curve.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        let (first, last) = (curve[0], curve[curve.len() - 1]);
        assert_eq!(first, (LEFT, field.y(step.histogram.min())));
        assert_eq!(last.0, RIGHT);
        assert_eq!(last.1, field.y(step.histogram.max()));
        assert!(last.1 < TOP + 10.0, "{last:?}");
    }

    #[test]
    fn a_curve_ends_where_its_samples_do() {
        let (few, many) = (calls(1..=10), calls(1..=1_000));
        let (few, many) = (curve("few", &few), curve("many", &many));
        let field = Field::around(&[&few, &many]);
        assert_eq!(field.curve(few.histogram).last().unwrap().0, field.x(1.0));
        assert_eq!(field.curve(many.histogram).last().unwrap().0, RIGHT);
    }

    #[test]
    fn a_picture_has_a_curve_and_a_name_for_each_step_that_was_made() {
        let (enqueues, leases, completions) = (calls([120, 340]), calls([]), calls([90, 95]));
        let steps = [
            curve("enqueue", &enqueues),
            curve("lease", &leases),
            curve("complete", &completions),
        ];
        let picture = picture(&steps, "Cycles <1>", "http & proto");
        assert_eq!(picture.matches("<path class=\"curve").count(), 2);
        for mention in [
            ">enqueue<",
            ">complete<",
            "Cycles &lt;1&gt;",
            "http &amp; proto",
            "99 %",
            " µs<",
        ] {
            assert!(picture.contains(mention), "{mention} in {picture}");
        }
        assert!(!picture.contains(">lease<"));
    }

    #[test]
    fn names_are_never_on_top_of_each_other() {
        let placed = apart(vec![
            (100.0, (0, 0), "a"),
            (300.0, (1, 0), "b"),
            (101.0, (2, 0), "c"),
        ]);
        let order: Vec<_> = placed.iter().map(|(_, _, name)| *name).collect();
        assert_eq!(order, ["a", "c", "b"]);
        assert!(placed[1].0 - placed[0].0 >= NAME_STEP);
    }

    #[test]
    fn a_run_without_an_answer_has_a_picture_that_says_so() {
        let none = calls([]);
        assert!(picture(&[curve("echo", &none)], "Echo", "").contains("no call was answered"));
    }

    #[test]
    fn curves_of_one_colour_differ_by_their_dashes() {
        let latencies = calls([5]);
        let steps = [curve("side", &latencies); COLOURS * DASHES];
        let picture = picture(&steps, "Sides", "");
        for dashes in 0..DASHES {
            let class = format!("class=\"curve c1 d{dashes}\"");
            assert_eq!(picture.matches(&class).count(), 1, "{class} in {picture}");
            let beside_name = class.replace("curve", "sample");
            assert_eq!(picture.matches(&beside_name).count(), 1, "{picture}");
        }
    }
}
