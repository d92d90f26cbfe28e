//! What the running system says of itself in `os-release`: is it a firmware image of ours, and of which flavour?

/// The running system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Name, version and, where it is not the product's, the flavour.
    pub pretty_name: String,
    /// `production`, `test` or `debug`; empty where the system is none of our images.
    pub flavour: String,
}

impl System {
    /// The running system; `None` where it has no `os-release`.
    pub fn running() -> Option<Self> {
        std::fs::read_to_string("/etc/os-release").ok().map(|text| Self::parse(&text))
    }

    /// From the text of an `os-release`.
    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_owned()
        };
        let ours = value("IMAGE_ID") == "lightbox";
        let flavour = if ours { value("VARIANT_ID") } else { String::new() };
        System { pretty_name: value("PRETTY_NAME"), flavour }
    }

    /// What every page must say of an image that is not the product.
    pub fn warning(&self) -> Option<String> {
        let product = self.flavour.is_empty() || self.flavour == "production";
        (!product).then(|| self.pretty_name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_that_are_not_the_product_are_warned_of() {
        let of = |flavour: &str| {
            let text = format!(
                "ID=lightbox\nPRETTY_NAME=\"Lightbox 1 ({flavour})\"\nIMAGE_ID=lightbox\nVARIANT_ID={flavour}\n"
            );
            System::parse(&text)
        };
        assert_eq!(of("debug").warning().as_deref(), Some("Lightbox 1 (debug)"));
        assert_eq!(of("test").warning().as_deref(), Some("Lightbox 1 (test)"));
        assert_eq!(of("production").warning(), None);
        assert_eq!(System::parse("PRETTY_NAME=\"Debian\"\nVARIANT_ID=debug\n").warning(), None);
    }
}
