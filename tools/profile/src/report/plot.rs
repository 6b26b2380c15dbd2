//! Pictures as SVG text. Lines and letters take the colour of the text around them, so that they can be read on light
//! and on dark paper.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::coord::combinators::IntoLogRange;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{PathElement, Rectangle, Text};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle};

/// Stands for the colour of the text around the picture.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_AS_WRITTEN: &str = "\"#010203\"";
const FONT: &str = "sans-serif";
const WIDTH: u32 = 920;
const ROW: i32 = 30;
const BAR: i32 = 18;
/// Where bars begin: names stand to the left.
const NAMES: i32 = 220;
/// Pixels for the longest bar.
const ROOM: i32 = 580;
/// Pixels by which a bar with a gap is longer.
const OVERHANG: i32 = 20;

/// The colours of series, chosen to be told apart by most eyes on both papers.
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 142, 110),
    RGBColor(213, 94, 0),
    RGBColor(52, 132, 204),
    RGBColor(204, 108, 164),
    RGBColor(190, 140, 0),
    RGBColor(130, 110, 220),
    RGBColor(128, 128, 128),
];

/// A bar of two parts with its spread.
pub struct Bar {
    /// To its left.
    pub name: String,
    /// The dark part, from zero.
    pub first: f64,
    /// The whole.
    pub whole: f64,
    /// Smallest and largest whole.
    pub spread: (f64, f64),
    /// Behind the bar.
    pub figure: String,
    /// Index into [`COLOURS`].
    pub colour: usize,
    /// Whether the scale need not have room for it: it is then drawn with a gap.
    pub outlier: bool,
}

/// Bars under a title.
pub struct Group {
    /// Above them.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// A line of a curve picture.
pub struct Line {
    /// In the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// Index into [`COLOURS`].
    pub colour: usize,
}

/// Horizontal bars in groups, on one scale.
pub fn bars(groups: &[Group]) -> Result<String, String> {
    let rows: usize = groups.iter().map(|group| group.bars.len() + 1).sum();
    let height = rows as i32 * ROW + 10;
    let all = || groups.iter().flat_map(|group| &group.bars);
    let longest =
        |outliers: bool| all().filter(|bar| outliers || !bar.outlier).map(|bar| bar.spread.1).fold(0.0, f64::max);
    let longest = if all().all(|bar| bar.outlier) { longest(true) } else { longest(false) };
    let scale = f64::from(ROOM) / longest.max(f64::MIN_POSITIVE);
    draw(height as u32, |area| {
        let mut top = 5;
        for group in groups {
            area.draw(&Text::new(group.title.clone(), (0, top + ROW / 2), text(15, HPos::Left)))?;
            top += ROW;
            for bar in &group.bars {
                one_bar(area, bar, top, scale)?;
                top += ROW;
            }
        }
        Ok(())
    })
}

fn one_bar(area: &Area<'_>, bar: &Bar, top: i32, scale: f64) -> Drawn {
    let x = |value: f64| NAMES + ((value * scale).round() as i32).min(ROOM + OVERHANG);
    // The parts of a bar with a gap are those of what is drawn of it.
    let whole = x(bar.whole);
    let first = NAMES + (f64::from(whole - NAMES) * bar.first / bar.whole.max(f64::MIN_POSITIVE)).round() as i32;
    let (upper, lower, middle) = (top + (ROW - BAR) / 2, top + (ROW + BAR) / 2, top + ROW / 2);
    let colour = COLOURS[bar.colour % COLOURS.len()];
    area.draw(&Text::new(bar.name.clone(), (NAMES - 10, middle), text(14, HPos::Right)))?;
    area.draw(&Rectangle::new([(NAMES, upper), (first, lower)], colour.filled()))?;
    area.draw(&Rectangle::new([(first, upper), (whole, lower)], colour.mix(0.55).filled()))?;
    let stroke: ShapeStyle = INK.mix(0.8).stroke_width(1);
    let end = if x(bar.spread.1) >= NAMES + ROOM + OVERHANG {
        for at in [ROOM - 20, ROOM - 14] {
            area.draw(&PathElement::new(vec![(NAMES + at, lower + 3), (NAMES + at + 6, upper - 3)], stroke))?;
        }
        NAMES + ROOM + OVERHANG
    } else {
        let (least, most) = (x(bar.spread.0), x(bar.spread.1));
        area.draw(&PathElement::new(vec![(least, middle), (most, middle)], stroke))?;
        for end in [least, most] {
            area.draw(&PathElement::new(vec![(end, middle - 4), (end, middle + 4)], stroke))?;
        }
        most.max(whole)
    };
    area.draw(&Text::new(bar.figure.clone(), (end + 8, middle), text(14, HPos::Left)))?;
    Ok(())
}

/// Latency by percentile: 1 / (1 - quantile) from left to right and microseconds upwards, both logarithmic.
pub fn percentiles(lines: &[Line], up: &str) -> Result<String, String> {
    let values = || lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let right = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x).fold(10.0, f64::max);
    if high <= 0.0 {
        return Err("no latencies to draw".to_owned());
    }
    let legend = lines.len() as i32 * 22;
    draw(400 + legend as u32, |area| {
        let (plot, below) = area.split_vertically(400);
        let mut chart = ChartBuilder::on(&plot)
            .margin(10)
            .margin_right(45)
            .set_label_area_size(LabelAreaPosition::Left, 70)
            .set_label_area_size(LabelAreaPosition::Bottom, 45)
            .build_cartesian_2d((1.0..right).log_scale(), ((low * 0.8).max(1.0)..high * 1.2).log_scale())?;
        chart
            .configure_mesh()
            .bold_line_style(INK.mix(0.2))
            .light_line_style(INK.mix(0.06))
            .axis_style(INK.mix(0.5))
            .label_style(text(13, HPos::Center))
            .axis_desc_style(text(13, HPos::Center))
            .x_labels(6)
            .x_label_formatter(&|inverse| percentile_name(*inverse))
            .y_label_formatter(&|micros| format!("{micros:.0}"))
            .x_desc("percentile")
            .y_desc(up)
            .draw()?;
        for line in lines {
            let style = COLOURS[line.colour % COLOURS.len()].stroke_width(2);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        }
        for (index, line) in lines.iter().enumerate() {
            let y = index as i32 * 22 + 11;
            let style = COLOURS[line.colour % COLOURS.len()].stroke_width(3);
            below.draw(&PathElement::new(vec![(80, y), (110, y)], style))?;
            below.draw(&Text::new(line.name.clone(), (120, y), text(14, HPos::Left)))?;
        }
        Ok(())
    })
}

/// 1 / (1 - quantile) as a percentile: 1000 is 99.9 %.
fn percentile_name(inverse: f64) -> String {
    let places = (inverse.log10().ceil() as usize).saturating_sub(2);
    format!("{:.places$} %", 100.0 * (1.0 - 1.0 / inverse))
}

/// The picture for use outside of a page: it brings its own colours for light and dark.
pub fn standalone(svg: &str) -> String {
    const COLOUR: &str = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>";
    match svg.split_once('>') {
        Some((head, rest)) => format!("{head}>{COLOUR}{rest}"),
        None => svg.to_owned(),
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(height: u32, content: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        content(&area).map_err(|error| format!("drawing: {error}"))?;
        area.present().map_err(|error| format!("drawing: {error}"))?;
    }
    Ok(svg.replace(INK_AS_WRITTEN, "\"currentColor\""))
}

fn text(size: i32, side: HPos) -> TextStyle<'static> {
    TextStyle::from((FONT, size).into_font()).color(&INK).pos(Pos::new(side, VPos::Center))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |name: &str, whole: f64| Bar {
            name: name.into(),
            first: whole / 4.0,
            whole,
            spread: (whole, whole),
            figure: format!("{whole:.1}"),
            colour: 0,
            outlier: whole > 150.0,
        };
        let svg =
            bars(&[Group { title: "job".into(), bars: vec![bar("one", 50.0), bar("two", 100.0), bar("far", 900.0)] }])
                .expect("it draws");
        let widths: Vec<i32> = svg
            .lines()
            .filter_map(|line| {
                line.trim().strip_prefix("<rect ")?.split_once("width=\"")?.1.split('"').next()?.parse().ok()
            })
            .collect();
        assert_eq!(widths.len(), 6, "{svg}");
        assert!((2 * (widths[0] + widths[1]) - (widths[2] + widths[3])).abs() <= 4, "{widths:?}");
        // The one far off does not make the others small.
        assert!(widths[2] + widths[3] >= ROOM - 2 && widths[4] + widths[5] <= ROOM + OVERHANG, "{widths:?}");
        // Its parts stay in proportion: a quarter is dark, as of the others.
        for bar in widths.chunks(2) {
            assert!((3 * bar[0] - bar[1]).abs() <= 4, "{widths:?}");
        }
        assert!(svg.contains("currentColor") && !svg.contains(INK_AS_WRITTEN));
    }

    #[test]
    fn percentiles_have_their_names() {
        let names: Vec<String> = [1.0, 2.0, 10.0, 100.0, 1000.0, 10_000.0].into_iter().map(percentile_name).collect();
        assert_eq!(names, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn a_curve_needs_values() {
        assert!(percentiles(&[], "us").is_err());
        let line = Line { name: "a".into(), points: vec![(1.0, 10.0), (1000.0, 90.0)], colour: 1 };
        assert!(percentiles(&[line], "us").expect("it draws").contains("99.9 %"));
    }

    #[test]
    fn a_picture_can_stand_alone() {
        assert!(standalone("<svg a=\"b\">\n</svg>").starts_with("<svg a=\"b\"><style>svg{color:"));
    }
}
