//! The shares of what is possible, as a drawing.

use std::fmt::Write;

use crate::contender::Contender;
use crate::table::{Row, Table};

const ROW: f64 = 18.0;
const LEFT: f64 = 380.0;
const WIDTH: f64 = 460.0;
const TOP: f64 = 56.0;
const COLOURS: [(Contender, &str); 3] = [
    (Contender::Qbulk, "#0072b2"),
    (Contender::Cubic(1), "#e69f00"),
    (Contender::Cubic(10), "#999999"),
];

/// A dot for each contender and path, at the largest size.
pub(crate) fn svg(table: &Table) -> String {
    let mut rows: Vec<&Row> = Vec::new();
    for row in &table.rows {
        match rows.last_mut() {
            Some(last) if last.path == row.path => *last = row,
            _ => rows.push(row),
        }
    }
    let height = TOP + ROW * rows.len() as f64 + 12.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        LEFT + WIDTH + 30.0
    );
    let x = |share: f64| LEFT + WIDTH * share.clamp(0.0, 1.0);
    // Writing to a string does not fail.
    let mut line = |text: std::fmt::Arguments<'_>| out.write_fmt(text).unwrap_or_default();
    for tenth in 0..=5 {
        let share = f64::from(tenth) / 5.0;
        line(format_args!(
            "<line x1=\"{0:.0}\" x2=\"{0:.0}\" y1=\"{1:.0}\" y2=\"{2:.0}\" stroke=\"#ddd\"/>\n\
             <text x=\"{0:.0}\" y=\"{3:.0}\" text-anchor=\"middle\" fill=\"#333\">{share:.1}</text>\n",
            x(share),
            TOP - 6.0,
            height - 10.0,
            TOP - 10.0
        ));
    }
    for (index, (contender, colour)) in COLOURS.iter().enumerate() {
        let at = LEFT + 130.0 * index as f64;
        line(format_args!(
            "<circle cx=\"{:.0}\" cy=\"16\" r=\"5\" fill=\"{colour}\"/>\n\
             <text x=\"{:.0}\" y=\"20\" fill=\"#333\">{contender}</text>\n",
            at,
            at + 10.0
        ));
    }
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (index as f64 + 0.5);
        line(format_args!(
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"#333\">{}</text>\n",
            LEFT - 12.0,
            y + 4.0,
            row.path
        ));
        // qbulk is drawn last, and so on top.
        for (contender, run) in row.runs.iter().rev() {
            let colour =
                COLOURS.iter().find(|(other, _)| other == contender).map_or("#000", |it| it.1);
            line(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{y:.0}\" r=\"5\" fill=\"{colour}\"/>\n",
                x(row.share(run))
            ));
        }
    }
    out.push_str("</svg>\n");
    out
}
