from __future__ import annotations


def test_suggest_names_slices_that_adapt_takes(amsam, toy, adapter_folder, scans_folder, tmp_path):
    ran = amsam("suggest", scans_folder / "images", "-a", adapter_folder, "-n", 3, "--json")

    names = [each["slice"] for each in ran.json["suggestions"]]
    listed = tmp_path / "next.txt"
    listed.write_text("\n".join(names))
    assert ran.code == 0, ran.err
    assert 1 <= len(names) <= 3
    assert amsam("adapt", scans_folder / "labels", "--slices", listed, "--dry-run").code == 0


def test_suggest_shows_the_label_in_doubt(amsam, toy, adapter_folder, scans_folder):
    ran = amsam("suggest", scans_folder / "images" / "case_7.nii.gz", "-a", adapter_folder)

    assert ran.code == 0, ran.err
    assert "case_7.nii.gz:" in ran.out
    assert "Least sure of" in ran.out


def test_suggest_refuses_a_folder_without_an_adapter(amsam, tmp_path, scans_folder):
    ran = amsam("suggest", scans_folder / "images", "-a", tmp_path / "none")

    assert ran.code == 2
    assert "Hint:" in ran.err
