//! The picture: gaps over the number of workers.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, LineSeries, Palette,
    Palette99, PathElement, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::WORKERS;
use crate::page::label;
use crate::rows::{ALL, Row};
use crate::storm::Kind;

/// Draws two panels, publications and loads, into the file at `path`.
pub fn draw(path: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let picture = SVGBackend::new(path, (1200, 560)).into_drawing_area();
    picture.fill(&WHITE)?;
    let gaps = rows.iter().map(|row| row.gaps[0].max(1.0));
    let most = gaps.clone().fold(1.0, f64::max) * 30.0;
    let least = gaps.fold(f64::INFINITY, f64::min) / 2.0;
    let published = |(kind, rate): (Kind, f64)| match kind {
        Kind::Nothing => true,
        Kind::Publish | Kind::PublishAndWait | Kind::ArcSwapStore | Kind::StopTheWorld => {
            rate > 1e4
        }
        _ => false,
    };
    let loaded = |(kind, _): (Kind, f64)| {
        matches!(
            kind,
            Kind::Nothing | Kind::BareLoad | Kind::Load | Kind::BareFailing | Kind::Failing
        )
    };
    let panels = picture.split_evenly((1, 2));
    type Wanted<'a> = &'a dyn Fn((Kind, f64)) -> bool;
    let wanted: [(&str, Wanted<'_>); 2] = [
        (
            "publications: gaps over 0.5 us in a second of work",
            &published,
        ),
        ("loads: gaps over 0.5 us in a second of work", &loaded),
    ];
    for (panel, (title, wanted)) in panels.iter().zip(wanted) {
        let numbers: Vec<usize> = (0..ALL.len()).filter(|at| wanted(ALL[*at])).collect();
        draw_panel(panel, title, rows, &numbers, least..most)?;
    }
    picture.present()?;
    Ok(())
}

fn draw_panel(
    panel: &plotters::drawing::DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    rows: &[Row],
    numbers: &[usize],
    range: Range<f64>,
) -> Result<(), Box<dyn Error>> {
    let workers = WORKERS.map(|n| n as f64);
    let across = workers[0] * 0.8..workers[workers.len() - 1] * 1.3;
    let mut chart = ChartBuilder::on(panel)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(across.log_scale(), range.log_scale())?;
    chart
        .configure_mesh()
        .x_desc("workers")
        .x_label_formatter(&|n| format!("{n:.0}"))
        .y_label_formatter(&|gaps| format!("{gaps:.0}"))
        .draw()?;
    for (place, what) in numbers.iter().enumerate() {
        let color = Palette99::pick(place).to_rgba();
        let points: Vec<(f64, f64)> = rows
            .iter()
            .filter(|row| row.what == *what)
            .map(|row| (row.workers as f64, row.gaps[0].max(1.0)))
            .collect();
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
        chart
            .draw_series(line)?
            .label(label(ALL[*what]))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        let dots = points.iter().map(|at| Circle::new(*at, 3, color.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}
