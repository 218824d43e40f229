//! Builds the kernel side of every probe and embeds the objects.

fn main() {
    sidecar_build::embed_objects();
}
