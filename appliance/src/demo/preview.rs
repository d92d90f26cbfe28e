//! One result as a picture: the source image in its own window, each visible finding outlined with
//! its label and score, under a banner that says what it is. It holds no patient data but the pixels.

use std::path::Path;

use anyhow::Context as _;
use dicom_dictionary_std::tags;
use font8x8::legacy::BASIC_LEGACY;
use image::imageops::{self, FilterType};
use image::{GrayImage, Rgb, RgbImage};
use lightbox_models::manifest::{Input, Intensity, Interpolation, Layout, Normalise, Resize, Scope};

use crate::finding::{Finding, Region, Tier};
use crate::infer::engine::TensorData;
use crate::infer::image::{Image, Limits};
use crate::infer::preprocess;

/// What stands over every picture.
pub const BANNER: &str = "AI - PRELIMINARY - NOT REVIEWED - NOT FOR CLINICAL USE";

/// Longest side of the image on the picture; a smaller one is enlarged by a whole factor.
const SIDE_MAX: u32 = 1024;
/// Room around everything.
const MARGIN: u32 = 16;
/// Picture pixels for a pixel of the font.
const FONT_SCALE: u32 = 2;
const GLYPH: u32 = 8 * FONT_SCALE;
const LINE: u32 = GLYPH + 8;
const BANNER_HEIGHT: u32 = GLYPH + 2 * MARGIN;

const BLACK: Rgb<u8> = Rgb([0, 0, 0]);
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);
const GREY: Rgb<u8> = Rgb([170, 176, 184]);
const PANEL: Rgb<u8> = Rgb([18, 20, 24]);
const BANNER_BACK: Rgb<u8> = Rgb([150, 20, 20]);

/// The colour of a tier: told apart by everybody, and by no means traffic lights.
fn colour(tier: Tier) -> Rgb<u8> {
    match tier {
        Tier::Reported => Rgb([0, 225, 255]),
        Tier::Flagged => Rgb([255, 190, 0]),
        Tier::Suppressed => GREY,
    }
}

/// Size in which an image is shown. `aspect` is the height of a pixel in widths: where rows and
/// columns lie a different distance apart, a circle must stay a circle.
pub fn shown_size(columns: u32, rows: u32, aspect: f64) -> (u32, u32) {
    let (wide, tall) = (f64::from(columns), f64::from(rows) * aspect);
    let fit = f64::from(SIDE_MAX) / wide.max(tall).max(1.0);
    let factor = if fit < 1.0 { fit } else { fit.floor() };
    let side = |length: f64| (length * factor).round().clamp(1.0, f64::from(SIDE_MAX)) as u32;
    (side(wide), side(tall))
}

/// A rectangle of the picture: left and top inside, right and bottom outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    left: i64,
    top: i64,
    right: i64,
    bottom: i64,
}

impl Area {
    fn grown(self, by: i64) -> Area {
        Area { left: self.left - by, top: self.top - by, right: self.right + by, bottom: self.bottom + by }
    }

    fn touches(&self, other: &Area) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn holds(&self, other: &Area) -> bool {
        self.left <= other.left
            && self.top <= other.top
            && self.right >= other.right
            && self.bottom >= other.bottom
    }
}

/// A region of the source image on the picture; `origin` is where the image begins.
fn place(region: &Region, source: (u32, u32), shown: (u32, u32), origin: (i64, i64)) -> Area {
    let across = f64::from(shown.0) / f64::from(source.0);
    let down = f64::from(shown.1) / f64::from(source.1);
    Area {
        left: origin.0 + (region.left * across).round() as i64,
        top: origin.1 + (region.top * down).round() as i64,
        right: origin.0 + (region.right * across).round() as i64,
        bottom: origin.1 + (region.bottom * down).round() as i64,
    }
}

/// Where a label of that size goes: above, below, right or left of its box, the first that stays in
/// `within` and covers nothing; else above, pushed inside.
fn label_place(outline: Area, size: (i64, i64), within: Area, taken: &[Area]) -> Area {
    let gap = 6;
    let at = |left: i64, top: i64| Area { left, top, right: left + size.0, bottom: top + size.1 };
    let above = at(outline.left, outline.top - gap - size.1);
    let candidates = [
        above,
        at(outline.left, outline.bottom + gap),
        at(outline.right + gap, outline.top),
        at(outline.left - gap - size.0, outline.top),
        at(outline.right - size.0, outline.top - gap - size.1),
        at(outline.right - size.0, outline.bottom + gap),
    ];
    let free = |area: &&Area| within.holds(area) && !taken.iter().any(|other| other.touches(area));
    candidates.iter().find(free).copied().unwrap_or_else(|| {
        let left = above.left.min(within.right - size.0).max(within.left);
        let top = above.top.min(within.bottom - size.1).max(within.top);
        at(left, top)
    })
}

fn fill(picture: &mut RgbImage, area: Area, with: Rgb<u8>) {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    for y in area.top.max(0)..area.bottom.min(height) {
        for x in area.left.max(0)..area.right.min(width) {
            picture.put_pixel(x as u32, y as u32, with);
        }
    }
}

/// A frame of that thickness, outside the area.
fn frame(picture: &mut RgbImage, area: Area, thickness: i64, with: Rgb<u8>) {
    let outer = area.grown(thickness);
    for side in [
        Area { bottom: area.top, ..outer },
        Area { top: area.bottom, ..outer },
        Area { right: area.left, top: area.top, bottom: area.bottom, ..outer },
        Area { left: area.right, top: area.top, bottom: area.bottom, ..outer },
    ] {
        fill(picture, side, with);
    }
}

fn text_width(text: &str) -> u32 {
    text.chars().count() as u32 * GLYPH
}

fn text(picture: &mut RgbImage, at: (i64, i64), content: &str, with: Rgb<u8>) {
    let scale = i64::from(FONT_SCALE);
    for (index, letter) in content.chars().enumerate() {
        let glyph =
            BASIC_LEGACY.get(letter as usize).or(BASIC_LEGACY.get('?' as usize)).copied().unwrap_or_default();
        let left = at.0 + index as i64 * i64::from(GLYPH);
        for (row, bits) in glyph.iter().enumerate() {
            for column in 0..8 {
                if bits >> column & 1 == 1 {
                    let (x, y) = (left + column * scale, at.1 + row as i64 * scale);
                    fill(picture, Area { left: x, top: y, right: x + scale, bottom: y + scale }, with);
                }
            }
        }
    }
}

/// What the picture shows.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The source image in its window.
    pub image: &'a Windowed,
    /// The findings on this frame; the suppressed ones are left out.
    pub findings: &'a [&'a Finding],
    /// Lines under the image: study key, model.
    pub captions: &'a [String],
}

/// Draws the picture.
pub fn draw(subject: &Subject<'_>) -> RgbImage {
    let grey = &subject.image.grey;
    let source = grey.dimensions();
    let shown = shown_size(source.0, source.1, subject.image.aspect);
    // Smooth when enlarged: a pixel's edges are no anatomy. The outlines are drawn afterwards, crisp.
    let scaled = imageops::resize(grey, shown.0, shown.1, FilterType::CatmullRom);

    let visible: Vec<&Finding> =
        subject.findings.iter().copied().filter(|finding| finding.tier != Tier::Suppressed).collect();
    // Number and score stand at the outline, where long words would hide anatomy; the legend under
    // the image says the rest.
    let numbered = |index: usize, finding: &Finding| match finding.source.region {
        Some(_) => format!("{}: {:.2}", index + 1, finding.score),
        None => String::new(),
    };
    let legend: Vec<String> = visible
        .iter()
        .enumerate()
        .map(|(index, finding)| {
            let place = if finding.source.region.is_some() { "" } else { " (whole image)" };
            let (meaning, tier) = (&finding.finding.meaning, finding.tier.as_str());
            format!("{}: {meaning}, score {:.2}, {tier}{place}", index + 1, finding.score)
        })
        .collect();
    let lines = (subject.captions.len() + legend.len()) as u32;
    let widest = subject.captions.iter().chain(&legend).map(|line| text_width(line)).max().unwrap_or(0);
    let width = (text_width(BANNER).max(widest) + 2 * MARGIN).max(shown.0);
    let height = BANNER_HEIGHT + shown.1 + 2 * MARGIN + lines * LINE;
    let mut picture = RgbImage::from_pixel(width, height, PANEL);

    let across = Area { left: 0, top: 0, right: i64::from(width), bottom: i64::from(BANNER_HEIGHT) };
    fill(&mut picture, across, BANNER_BACK);
    let middle = i64::from((width - text_width(BANNER)) / 2);
    text(&mut picture, (middle, i64::from(MARGIN)), BANNER, WHITE);

    let origin = (i64::from((width - shown.0) / 2), i64::from(BANNER_HEIGHT));
    let within = Area {
        left: origin.0,
        top: origin.1,
        right: origin.0 + i64::from(shown.0),
        bottom: origin.1 + i64::from(shown.1),
    };
    fill(&mut picture, Area { left: 0, right: i64::from(width), ..within }, BLACK);
    for (x, y, pixel) in scaled.enumerate_pixels() {
        let [value] = pixel.0;
        picture.put_pixel(x + origin.0 as u32, y + origin.1 as u32, Rgb([value; 3]));
    }

    let outlines: Vec<(usize, Area)> = visible
        .iter()
        .enumerate()
        .filter_map(|(index, finding)| {
            Some((index, place(finding.source.region.as_ref()?, source, shown, origin)))
        })
        .collect();
    let mut taken: Vec<Area> = outlines.iter().map(|(_, area)| area.grown(5)).collect();
    for (index, area) in outlines {
        let with = colour(visible[index].tier);
        // A dark rim on both sides keeps the line visible on bright tissue.
        frame(&mut picture, area, 5, BLACK);
        frame(&mut picture, area.grown(1), 3, with);
        let label_text = numbered(index, visible[index]);
        let size = (i64::from(text_width(&label_text)) + 8, i64::from(GLYPH) + 6);
        let label = label_place(area.grown(5), size, within, &taken);
        fill(&mut picture, label, BLACK);
        text(&mut picture, (label.left + 4, label.top + 3), &label_text, with);
        taken.push(label);
    }
    let mut below = i64::from(BANNER_HEIGHT + shown.1 + MARGIN);
    for (line, finding) in legend.iter().zip(&visible) {
        text(&mut picture, (i64::from(MARGIN), below), line, colour(finding.tier));
        below += i64::from(LINE);
    }
    for caption in subject.captions {
        text(&mut picture, (i64::from(MARGIN), below), caption, GREY);
        below += i64::from(LINE);
    }
    picture
}

/// A frame of an image, ready to be shown.
#[derive(Debug)]
pub struct Windowed {
    grey: GrayImage,
    aspect: f64,
}

/// A frame of a stored image as grey values in the image's own window.
pub fn windowed(path: &Path, number: u32) -> anyhow::Result<Windowed> {
    let image = Image::open(path, &Limits::default())?;
    let frame = image.frame(number)?;
    let input = Input {
        tensor: "preview".into(),
        layout: Layout::Nchw,
        channels: 1,
        scope: Scope::Image,
        resize: Resize::Native {},
        interpolation: Interpolation::Nearest,
        intensity: Intensity::ImageWindow {},
        normalise: Normalise::default(),
        monochrome1: Default::default(),
    };
    let (tensor, _) = preprocess::tensor(&image, &frame, number, &input)?;
    let TensorData::F32(values) = tensor.data else { anyhow::bail!("the image has no grey values") };
    let bytes = values.iter().map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    let (columns, rows) = (frame.columns as u32, frame.rows as u32);
    let grey = GrayImage::from_raw(columns, rows, bytes).context("the image has no size")?;
    // Only the ratio counts here, so the distances at the detector will do as well.
    let spacing = [tags::PIXEL_SPACING, tags::IMAGER_PIXEL_SPACING]
        .into_iter()
        .find_map(|tag| image.object().get(tag)?.value().to_multi_float64().ok());
    let aspect = match spacing.as_deref() {
        Some([row_mm, column_mm]) if *row_mm > 0.0 && *column_mm > 0.0 => {
            (row_mm / column_mm).clamp(0.2, 5.0)
        }
        _ => 1.0,
    };
    Ok(Windowed { grey, aspect })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Code, InstanceRef, Source};
    use crate::phi::Phi;

    fn finding(region: Option<Region>, tier: Tier) -> Finding {
        Finding {
            tracking_id: "t".into(),
            label: "disk".into(),
            category: Code::new("1", "SCT", "a"),
            finding: Code::new("1", "SCT", "Bright disk"),
            site: None,
            laterality: None,
            score: 0.9,
            tier,
            measurements: Vec::new(),
            source: Source {
                instance: InstanceRef {
                    series_uid: Phi::from("1"),
                    sop_class_uid: "1".into(),
                    sop_instance_uid: Phi::from("1"),
                    modality: "CT".into(),
                    frames: 1,
                },
                frame: 1,
                region,
            },
        }
    }

    #[test]
    fn small_images_grow_by_whole_factors_and_large_ones_shrink() {
        assert_eq!(shown_size(256, 256, 1.0), (1024, 1024));
        assert_eq!(shown_size(512, 640, 1.0), (512, 640));
        assert_eq!(shown_size(100, 60, 1.0), (1000, 600));
        assert_eq!(shown_size(4096, 2048, 1.0), (1024, 512));
        assert_eq!(shown_size(1, 1, 1.0), (1024, 1024));
        // Pixels half as high as wide.
        assert_eq!(shown_size(512, 512, 0.5), (1024, 512));
    }

    #[test]
    fn a_region_lands_where_it_is() {
        let region = Region { left: 10.0, top: 20.0, right: 12.0, bottom: 25.0 };
        let area = place(&region, (100, 100), (400, 200), (8, 50));
        assert_eq!(area, Area { left: 48, top: 90, right: 56, bottom: 100 });
    }

    #[test]
    fn labels_stay_inside_and_apart() {
        let within = Area { left: 0, top: 0, right: 200, bottom: 200 };
        let outline = Area { left: 5, top: 5, right: 50, bottom: 50 };
        let label = label_place(outline, (80, 20), within, &[outline]);
        assert!(within.holds(&label) && !label.touches(&outline));
        let blocked = label_place(outline, (80, 20), within, &[within]);
        assert!(within.holds(&blocked));
    }

    #[test]
    fn visible_findings_are_outlined_and_suppressed_ones_are_not() {
        let region = Region { left: 50.0, top: 40.0, right: 70.0, bottom: 60.0 };
        let far = Region { left: 5.0, top: 80.0, right: 15.0, bottom: 90.0 };
        let seen = finding(Some(region), Tier::Reported);
        let hidden = finding(Some(far), Tier::Suppressed);
        let whole = finding(None, Tier::Flagged);
        let image = Windowed { grey: GrayImage::from_pixel(100, 100, image::Luma([100])), aspect: 1.0 };
        let findings = [&seen, &hidden, &whole];
        let picture = draw(&Subject { image: &image, findings: &findings, captions: &["caption".into()] });
        assert!(picture.width() >= text_width(BANNER) && picture.height() > 1000);
        let count = |with: Rgb<u8>| picture.pixels().filter(|pixel| **pixel == with).count();
        assert!(count(colour(Tier::Reported)) > 3 * 4 * 200);
        assert!(count(colour(Tier::Flagged)) > 100);
        assert_eq!(picture.get_pixel(0, 0), &BANNER_BACK);
        // The inside of the outline shows the image.
        let left = (picture.width() - 1000) / 2;
        assert_eq!(picture.get_pixel(left + 600, BANNER_HEIGHT + 500), &Rgb([100; 3]));
        // Nothing is drawn around the suppressed one.
        assert_eq!(picture.get_pixel(left + 48, BANNER_HEIGHT + 850), &Rgb([100; 3]));
    }
}
